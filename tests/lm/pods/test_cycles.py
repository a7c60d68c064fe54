"""lm/pods/cycles.py and kernels.py: cycles by part through loops, bundles of a kernel."""

import pytest

from lm.pods import cycles, kernels

V5E = "TPU v5 lite"


def operation(name, cycles, scope):
    return (
        f"  %{name} = bf16[8,8]{{1,0}} fusion(%p), calls=%f, "
        f'metadata={{op_name="jit(_call)/{scope}/mul"}}, '
        f'backend_config={{"window_config":{{"estimated_cycles":"{cycles}"}}}}'
    )


def kernel(kind, batch="4", tiles=4):
    return (
        f"  %splash_mha_{kind}_segmented.1 = (f32[1024,64]{{1,0}}, bf16[{batch},4096,64]{{2,1,0}}) "
        f'custom-call(%q), custom_call_target="tpu_custom_call", operand_layout_constraints='
        f"{{s8[1,{tiles},{tiles}]{{2,1,0}}}}, "
        'metadata={op_name="jit(_call)/blocks/attention/pallas_call"}'
    )


def program(*body):
    lines = "\n".join(body)
    return f"""
%body (p: s32[]) -> s32[] {{
{lines}
}}

%condition (p: s32[]) -> pred[] {{
  %limit = s32[] constant(3)
}}

ENTRY %main (x: s32[]) -> s32[] {{
{operation("head", 4500, "jvp(loss)/shard_map")}
{operation("adam", 600, "update/attention/key")}
  ROOT %w = s32[] while(%x), condition=%condition, body=%body
}}
"""


def test_parts_are_summed_through_loops():
    text = program(
        operation("a", 1000, "transpose(jvp(Llama))/blocks/attention/query"),
        operation("b", 2000, "jvp(Llama)/blocks/mlp/up"),
        operation("c", 3000, "jvp(Llama)/blocks/attention_norm"),
    )
    found = cycles.estimate(text, V5E)
    expected = {"optimizer": 600, "loss": 4500, "attention": 3000, "MLP": 6000, "rest": 9000}
    assert found.parts == pytest.approx({k: v / 1.5e6 for k, v in expected.items()})
    assert found.refresh == pytest.approx(sum(found.parts.values())) and not found.notes


def test_kernels_count_by_their_bundles():
    work, row, turn = kernels.BUNDLES[V5E]["fwd"]
    one = 4 * (10 * work + 4 * row + 16 * turn)  # 4 heads, 10 of 16 pairs of tiles
    assert kernels.cycles(kernel("fwd"), V5E) == one
    assert kernels.cycles(kernel("fwd", batch="2,4"), V5E) == 2 * one
    assert kernels.cycles(operation("a", 1, "loss"), V5E) == 0
    assert kernels.cycles(kernel("fwd", tiles=32), V5E) is None  # tiles of 128
    found = cycles.estimate(program(kernel("fwd")), V5E)
    assert found.parts["attention kernels"] == pytest.approx(3 * one / 1.5e6)


def test_what_could_not_be_counted_is_said():
    assert "never counted" in cycles.estimate(program(kernel("dq", tiles=32)), V5E).notes[0]
    unknown = cycles.estimate(program(), "TPU v99")
    assert unknown.parts == {} and unknown.notes == ["no clock is known of TPU v99"]


def test_a_part_far_from_its_products_is_named():
    product = (
        "  %dot.1 = bf16[8,8]{1,0} dot(%l, %r), lhs_contracting_dims={1}, "
        'metadata={op_name="jit(f)/jvp(loss)/dot_general"}'
    )
    operands = [f"  %{name} = bf16[8,8]{{1,0}} parameter(0)" for name in "lr"]
    (note,) = cycles.estimate(program(*operands, product), V5E).notes
    assert note.startswith("loss takes ") and note.endswith(" times its products at the peak rate")


BUNDLE_TEXT = """
= control target key start
     0   :  { %s = smov 1 }
  0x10 LB: > { %a = sst 1 }
  0x20 PF: > { %b = sld 1 }
0x1020   : > { %c = sld 1 }
0x1120 PF: > { %d = sld 1 }
0x1220 PF: > { %e = sld 1 }
0x1228   :  { %f = sld 1 }
"""


def test_a_kernels_bundles_fall_into_work_row_and_turn():
    assert kernels.sections(BUNDLE_TEXT.splitlines()) == (0x1100, 0x100, 0x10 + 0x8)
