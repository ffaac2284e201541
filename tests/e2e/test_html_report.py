"""The HTML report in a real browser: charts drawn, details shown, nothing sent, nothing run."""

import json

import pytest
from browser import Browser

HOSTILE = ("Repeat: <script>window.pwned=1</script><img src=x onerror=\"window.pwned=1\">"
           "</script><script>window.pwned=1</script> ${window.pwned=1} \u2028 &amp; done")
PROMPTS = [HOSTILE, "Name three colours.", "Explain what a KV cache is."]
MODES = ["inject", "forced", "free"]


class Report:
    def __init__(self, path, document, exit_status):
        self.path = path
        self.document = document
        self.exit_status = exit_status

    def modes(self, input_index):
        """The modes of an input as the JSON report of the same run has them."""
        entry = next(e for e in self.document["results"] if e["input"] == input_index)
        return entry["replay"]["modes"]


@pytest.fixture(scope="module")
def report(smollm2, kvtool_in, tmp_path_factory) -> Report:
    kvtool = kvtool_in(tmp_path_factory.mktemp("html_report"))
    prompts = kvtool.prompts([{"text": prompt} for prompt in PROMPTS])
    kvtool.ok("save", "--model", smollm2.path, "--prompts", prompts, "--batch-size", 3,
              "--max-new-tokens", 24, "--ignore-eos", "--device", "cpu", "--out", "ref_cache")
    done = kvtool.run("replay", "--model", smollm2.path, "--from", "CPU", "--device", "cpu",
                      "--cpu-isa", "avx2", "--mode", ",".join(MODES), "--html", "report.html",
                      "--json", "report.json")
    assert done.returncode in (0, 1), done.stdout + done.stderr
    document = json.loads((kvtool.directory / "report.json").read_text())
    return Report(kvtool.directory / "report.html", document, done.returncode)


@pytest.fixture(scope="module")
def window():
    browser = Browser()
    yield browser
    browser.close()


@pytest.fixture
def browser(window, report) -> Browser:
    window.set_width(1280)
    window.set_dark(False)
    window.driver.get("about:blank")
    window.console()
    window.requests()
    window.open(report.path)
    return window


def choose(browser, input_index):
    """Shows an input; its anchor ends with its name."""
    browser.run("""
        const row = [...document.querySelectorAll('.inputs tbody tr')]
            .find((row) => row.querySelector('a').textContent.endsWith(`_input${arguments[0]}`));
        row.querySelector('td:nth-child(3)').click();""", input_index)


def test_nothing_is_requested_and_nothing_goes_wrong(browser, report):
    for input_index in range(len(PROMPTS)):
        choose(browser, input_index)
    for canvas in browser.all("#input canvas.heatmap"):
        browser.hover(canvas)
    sent = [url for url in browser.requests() if not url.startswith("data:")]
    assert sent == [report.path.resolve().as_uri()]
    assert browser.console() == []


def test_the_page_itself_forbids_requests(browser):
    outcome = browser.driver.execute_async_script("""
        const done = arguments[0];
        document.addEventListener('securitypolicyviolation',
                                  (event) => done(event.effectiveDirective));
        setTimeout(() => done('nothing was forbidden'), 5000);
        new Image().src = 'http://127.0.0.1:9/pixel.png';""")
    assert outcome == "img-src"


def test_hostile_text_is_shown_and_does_not_run(browser, report):
    choose(browser, 0)
    assert browser.run("return window.pwned") is None
    shown = browser.run("return document.querySelector('#input pre.prompt').textContent")
    assert HOSTILE in shown
    assert browser.run("return document.querySelectorAll('#input img, #input script').length") == 0
    assert report.path.read_bytes().count(b"<script>window.pwned") == 0


def test_the_strip_has_a_cell_for_each_token_and_mode(browser, report):
    choose(browser, 1)
    for mode in report.modes(1):
        cells = browser.all(f"#input .strip .cell[data-mode={mode['mode']}]")
        tokens = mode["tokens"]["class"]
        assert len(cells) == len(tokens) + mode["uncompared_steps"] == 24
        classes = [cell.get_attribute("class") for cell in cells]
        for name, style in [("tie", "tie"), ("noise", "noise"), ("near_tie", "near"),
                            ("hard_flip", "hard")]:
            assert classes.count(f"cell {style}") == tokens.count(name)
        bitwise = [name == "match" and equal for name, equal
                   in zip(tokens, mode["tokens"]["logits_equal"])]
        assert classes.count("cell equal") == sum(bitwise)


def test_margin_and_kl_are_drawn(browser, report):
    choose(browser, 1)
    tokens = report.modes(1)[0]["tokens"]
    marks = browser.all("#input .lines circle.margin, #input .lines .cell")
    assert len(marks) == len(tokens["margin"])
    assert browser.all("#input .lines path.series.tolerance")
    estimated = any(kl is not None for kl in tokens["kl_estimate"])
    if any((kl or 0) > 0 for kl in tokens["kl_estimate" if estimated else "kl"]):
        drawn = browser.run(
            "return document.querySelector('#input .lines path.mode-inject').getTotalLength()")
        assert drawn > 500
    else:
        assert "KL is 0 at every compared token" in browser.run(
            "return document.getElementById('input').innerText")


def test_heatmaps_are_drawn_light_and_dark(browser, report):
    choose(browser, 1)
    canvases = browser.all("#input canvas.heatmap")
    # K and V of the prompt and of the steps of each mode.
    assert len(canvases) == 2 * (1 + len(MODES))
    differs = not all(mode["bitwise_equal"] for mode in report.modes(1))
    for dark in (False, True):
        browser.set_dark(dark)
        colors = [browser.colors(canvas) for canvas in canvases]
        assert min(colors) >= 2
        assert max(colors) > 20 or not differs


def test_pointing_at_a_token_shows_its_details(browser, report):
    choose(browser, 1)
    tokens = report.modes(1)[0]["tokens"]
    browser.hover(browser.all("#input .strip .cell[data-mode=inject]")[5])
    text = browser.details()
    assert "token 5 · step 4 · inject" in text
    assert f"(id {tokens['recorded'][5]})" in text
    assert "margin" in text and "ulp" in text and "KL" in text


def test_pointing_at_a_heatmap_shows_its_figures(browser):
    choose(browser, 1)
    canvas = browser.all("#input canvas.heatmap")[-1]
    # In the first block of the tenth layer or so: axis 30 wide, rows at least 5 high.
    browser.hover(canvas, 36, 100)
    text = browser.details()
    assert text.startswith("V · layer ") and "position" in text
    assert "relative L2" in text or "bitwise equal" in text
    browser.hover(browser.all("h1")[0])
    assert browser.details() == ""


def test_the_keyboard_moves_through_a_strip(browser):
    from selenium.webdriver.common.keys import Keys

    choose(browser, 1)
    strip = browser.all("#input .strip")[0]
    strip.send_keys(Keys.ARROW_RIGHT)
    assert "token 1 · step 0 · inject" in browser.details()
    strip.send_keys(Keys.ARROW_DOWN, Keys.END)
    assert "token 23" in browser.details() and "forced" in browser.details()
    strip.send_keys(Keys.ESCAPE)
    assert browser.details() == ""


def test_an_input_has_an_address(browser, report):
    link = browser.all(".inputs tbody a")[-1]
    name, address = link.text, link.get_attribute("href")
    browser.driver.get("about:blank")
    browser.driver.get(address)
    assert browser.all("#input h3")[0].text == name


def test_the_badge_agrees_with_the_exit_status(browser, report):
    badge = browser.all(".badge")[0].text
    assert badge == ("✓ PASS" if report.exit_status == 0 else "✗ FAIL")


def test_the_page_fits_a_phone(browser):
    browser.set_width(390)
    browser.driver.refresh()
    assert browser.run("return document.documentElement.scrollWidth") <= 390
