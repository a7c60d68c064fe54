"""A study whose processes are killed or asked to stop ends in the table of an undisturbed one."""

import signal

import pytest
from study_rig import process, run, table, trained, until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("study") / "w"
    assert run(workdir) == 0
    return workdir


@pytest.mark.parametrize(
    "workers, victim, after", [(0, "kill_trainer", 13), (2, "kill_parent", 30)]
)
def test_killed_at_any_point_it_ends_in_the_same_table(
    undisturbed, tmp_path, workers, victim, after
):
    """This process, or the worker that the driver has started."""
    codes = []
    while not codes or codes[-1]:
        child = process(tmp_path, f"--workers={workers}", **{victim: after})
        output, _ = child.communicate(timeout=300)
        codes.append(child.returncode)
        assert codes[-1] in (0, 2 if workers else -9), output
        assert not codes[-1] or not workers or "ended with exit code -9" in output
    assert len(codes) - 1 == len(trained(undisturbed)) // after
    # What a killed process had begun and not put is begun again; a result is never put twice.
    assert len(trained(tmp_path)) <= len(trained(undisturbed)) + workers * (len(codes) - 1)
    assert table(tmp_path) == table(undisturbed)
    assert not list(tmp_path.glob("claims/*")) and not list(tmp_path.glob("workers/*"))


def test_killing_the_driver_kills_nothing(undisturbed, tmp_path):
    child = process(tmp_path, "--workers=2", sleep=0.1)
    until(lambda: trained(tmp_path))
    child.kill()
    child.communicate()
    until(lambda: len(trained(tmp_path)) == len(trained(undisturbed)))  # without a driver
    assert run(tmp_path) == 0
    assert len(trained(tmp_path)) == len(trained(undisturbed))
    assert table(tmp_path) == table(undisturbed)


@pytest.mark.parametrize("workers", [0, 2])
def test_ctrl_c_lets_finished_trials_stand_and_says_so(undisturbed, tmp_path, workers):
    child = process(tmp_path, f"--workers={workers}", sleep=0.2)
    until(lambda: trained(tmp_path))
    child.send_signal(signal.SIGINT)
    output, _ = child.communicate(timeout=120)
    assert child.returncode == 130 and "SIGINT" in output, output
    assert not list(tmp_path.glob("workers/*"))
    assert run(tmp_path) == 0
    assert table(tmp_path) == table(undisturbed)
    assert len(trained(tmp_path)) <= len(trained(undisturbed)) + 2 * 4
