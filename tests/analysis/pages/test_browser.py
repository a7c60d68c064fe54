"""The page in a real browser: a script clicks through it and writes down what it finds.

Needs a Chromium on the path; nothing else is installed for it.
"""

import html
import json
import re
import shutil
import subprocess

import pytest
import synthetic_study

from analysis import report
from analysis.pages.view import view
from analysis.runs import reader

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium on the path"),
]

READER = """
<script>
const found = {errors: window.failures, saved: []}, seen = q => [...document.querySelectorAll(q)]
  .filter(e => e.getClientRects().length).length;
const click = (q, i = 0) => document.querySelectorAll(q)[i].click();
found.hidden = seen("[data-script]") === 0;
found.wide = document.documentElement.scrollWidth <= innerWidth;
found.answer = document.querySelector("#forest").getBoundingClientRect().bottom;
document.querySelectorAll("details").forEach(d => { d.open = true; });
const lions = seen('[data-o=lion]');
click('.filters [data-value=lion]');
found.toggled = [lions, seen('[data-o=lion]:not(button)'),
  document.querySelector('.filters [data-value=lion]').getAttribute("aria-pressed")];
click('.filters [data-value=lion]');
click('.filters [data-value=tiny]');
found.sizes = [seen('svg[data-s=tiny]'), seen('svg[data-s=small]')];
const table = document.querySelector("#use-it table"), loss = [...table.tHead.rows[0].cells]
  .findIndex(c => c.textContent === "loss");
const column = () => [...table.tBodies[0].rows].map(r => Number(r.cells[loss].dataset.v));
for (const way of ["up", "down"]) { table.tHead.rows[0].cells[loss].firstChild.click(); found[way] = column(); }
const field = table.closest("div.table").querySelector("input");
field.value = "muon 4×"; field.dispatchEvent(new Event("input"));
found.filtered = [...table.tBodies[0].rows].filter(r => !r.hidden).length;
const choose = (id, value) => { const menu = document.getElementById(id); menu.value = value;
  menu.dispatchEvent(new Event("change")); };
const setting = (id, words) => choose(id, [...document.getElementById(id).options].find(o => o.text.includes(words)).value);
const compared = (x, y, p = "won", q = "won") => {
  choose("optimizer-a", x); choose("optimizer-b", y); setting("setting-a", p); setting("setting-b", q);
  return [...document.getElementById("compared").rows].map(r => [...r.cells].map(c => c.textContent)); };
found.forth = compared("muon", "lion"); found.back = compared("lion", "muon"); found.self = compared("lion", "lion");
found.settings = compared("muon", "muon", "rate 0.004, beta2 0.98, weight decay 0.1", "rate 0.016, beta2 0.98, weight decay 0.1");
found.across = compared("muon", "lion", "rate 0.004, beta2 0.98, weight decay 0.1");
found.tip = document.querySelector("#compared td:nth-child(3)").title;
const controls = [...document.querySelectorAll("button, select, input, a, summary")];
found.keys = controls.filter(e => e.tabIndex < 0 || !(e.textContent + (e.getAttribute("aria-label") || e.labels?.[0]?.textContent || "")).trim()).length;
document.querySelectorAll("details").forEach(d => { d.open = false; });
dispatchEvent(new Event("beforeprint"));
found.printed = document.querySelectorAll("details:not([open])").length;
URL.createObjectURL = blob => { found.saved.push([blob.type, blob.size]); return "#"; };
HTMLAnchorElement.prototype.click = () => {};
click("#forest [data-svg]"); click("#forest [data-csv]");
found.picture = picture(document.querySelector("#losses"));
found.requests = performance.getEntriesByType("resource").length;
document.body.replaceChildren(Object.assign(document.createElement("pre"), {id: "found", textContent: JSON.stringify(found)}));
</script>
"""  # noqa: E501
CATCH = "<script>window.failures=[];addEventListener('error',e=>failures.push(e.message))</script>"


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    study = synthetic_study.write(folder / "study", optimizers=["adamw", "lion", "muon"])
    content = report.html(view(reader.load(study)))
    page = content.replace("<body>", f"<body>{CATCH}").replace("</body>", f"{READER}</body>")
    (folder / "page.html").write_text(page, encoding="utf-8")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1366,768"]
    command += [f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr"]
    command += ["--dump-dom", (folder / "page.html").as_uri()]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    written = re.search(r'<pre id="found">(.*?)</pre>', run.stdout, re.S)
    assert written, run.stderr[-2000:]
    found = json.loads(html.unescape(written[1]))
    return found | {"console": re.findall(r".*CONSOLE.*", run.stderr), "size": len(content)}


def test_nothing_fails_and_no_request_leaves_the_file(found):
    assert found["errors"] == [] and found["console"] == [] and found["requests"] == 0
    assert found["size"] < 3e6


def test_the_answer_needs_no_scrolling_on_a_laptop(found):
    assert found["wide"] and found["answer"] < 768 and not found["hidden"]


def test_toggles_hide_an_optimizer_and_a_size_everywhere(found):
    before, after, pressed = found["toggled"]
    assert before > 20 and after == 0 and pressed == "false"
    assert found["sizes"][0] == 0 and found["sizes"][1] > 5


def test_tables_sort_both_ways_and_filter(found):
    assert found["up"] == sorted(found["up"]) and found["down"] == sorted(found["up"])[::-1]
    assert found["filtered"] == 2  # one of each size


def test_two_optimizers_compare_the_same_from_both_sides(found):
    assert len(found["forth"]) == 6 and len(found["self"]) == 1
    for there, back in zip(found["forth"], found["back"], strict=True):
        assert float(there[2]) == -float(back[2])
        low, high = map(float, there[3].split(" to "))
        assert low <= float(there[2]) <= high
        assert float(there[4]) == float(there[2])  # a token costs Muon's rival the same FLOPs
        assert float(there[5]) < float(there[2])  # and 1.3 times fewer seconds
        assert float(there[6]) == 2 and there[7].split(" | ") == back[7].split(" | ")[::-1]


def test_two_settings_compare_on_their_common_seeds(found):
    """An octave below the optimum and one above it lose the same 0.02 nats, to the noise."""
    assert len(found["settings"]) == 6
    for row in found["settings"]:
        low, high = map(float, row[3].split(" to "))
        assert abs(float(row[2])) < 5 * 0.001 * 2**0.5 and low < high
        assert "on seed 0" in row[8] and "resolved" in row[8] and row[6] == "1.00"
    assert len(found["across"]) == 6
    assert all("B was chosen for its loss on seed 0" in row[8] for row in found["across"])
    assert found["tip"].startswith("A: runs ") and "; B: runs " in found["tip"]


def test_every_control_has_a_name_and_the_keyboard_and_print_shows_all(found):
    assert found["keys"] == 0 and found["printed"] == 0


def test_pictures_and_data_download(found):
    assert [kind for kind, _ in found["saved"]] == ["image/svg+xml", "text/csv"]
    assert all(size > 200 for _, size in found["saved"])
    assert found["picture"].count("<svg") == 2 and "--vermilion" in found["picture"]  # tiny is off
