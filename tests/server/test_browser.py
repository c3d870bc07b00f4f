"""The search page in a real browser."""

import json
import os
import shutil
from pathlib import Path

import pytest

from data.readers import demo_folder
from server.app import create_app
from server.cli import main

webdriver = pytest.importorskip("selenium.webdriver")
from selenium.common.exceptions import StaleElementReferenceException  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver on the PATH"),
]
FLAGS = (
    "headless=new no-sandbox disable-gpu disable-quic no-first-run disable-background-networking"
    " disable-component-update disable-sync window-size=1100,1250"
)
SWAHILI = "Je, naweza kuangalia jua likifunikwa na mwezi kwa miwani ya kawaida?"


@pytest.fixture(scope="module")
def url(demo_engine, served):
    with served(create_app(demo_engine)) as url:
        yield url


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS.split(), f"user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def page(browser, url):
    browser.get(url)
    until(browser, "#modes input:checked")
    return browser


def until(browser, selector, condition=bool):
    """Wait until the elements of a selector, not busy, satisfy a condition, and return them."""

    def ready(_):
        found = browser.find_elements(By.CSS_SELECTOR, selector)
        busy = browser.find_elements(By.CSS_SELECTOR, "#hits[aria-busy=true]")
        return found if condition(found) and not busy else False

    return WebDriverWait(browser, 60, ignored_exceptions=[StaleElementReferenceException]).until(ready)


def ask(browser, question):
    box = browser.find_element(By.ID, "q")
    box.clear()
    box.send_keys(question, Keys.ENTER)
    return until(browser, "#hits li")


def more_than(count):
    return lambda found: len(found) > count


def languages(hits):
    return [hit.find_element(By.CLASS_NAME, "badge").get_attribute("title") for hit in hits]


def direction(browser, element):
    return browser.execute_script("return getComputedStyle(arguments[0]).direction", element)


def test_a_question_in_swahili_finds_other_languages(page):
    hits = ask(page, SWAHILI)
    # 18 passages answer it, one in each language; 30 results leave room for those that only share words with it.
    while len(hits) < 30 and not {"en", "zh", "sw", "ar"} <= set(languages(hits)):
        page.find_element(By.ID, "more").click()
        hits = until(page, "#hits li", more_than(len(hits)))
    assert {"en", "zh", "sw", "ar"} <= set(languages(hits))
    assert "question in Swahili" in page.find_element(By.ID, "status").text
    arabic = hits[languages(hits).index("ar")].find_element(By.CLASS_NAME, "passage")
    assert (arabic.get_attribute("lang"), direction(page, arabic)) == ("ar", "rtl")
    english = hits[languages(hits).index("en")].find_element(By.CLASS_NAME, "passage")
    assert direction(page, english) == "ltr"


def test_the_address_is_the_search(page, url):
    first = [hit.text for hit in ask(page, SWAHILI)]
    address = page.current_url
    ask(page, "月亮为什么有时圆有时弯？")
    assert page.current_url != address
    page.back()
    until(
        page,
        "#hits li",
        lambda hits: [hit.text.splitlines()[1:] for hit in hits] == [t.splitlines()[1:] for t in first],
    )
    assert page.find_element(By.ID, "q").get_attribute("value") == SWAHILI
    page.get(address)
    assert len(until(page, "#hits li")) == len(first)


def test_the_keyboard_is_enough(page):
    ask(page, SWAHILI)
    active = page.switch_to.active_element
    active.send_keys(Keys.ARROW_DOWN)
    assert page.switch_to.active_element.tag_name == "li"
    page.switch_to.active_element.send_keys(Keys.ARROW_DOWN)
    assert page.switch_to.active_element.text.startswith("2")
    page.switch_to.active_element.send_keys(Keys.ARROW_UP)
    page.switch_to.active_element.send_keys(Keys.ARROW_UP)
    assert page.switch_to.active_element.get_attribute("id") == "q"
    page.switch_to.active_element.send_keys(Keys.ARROW_DOWN)
    page.switch_to.active_element.send_keys("/")
    assert page.switch_to.active_element.get_attribute("id") == "q"
    assert page.find_element(By.ID, "q").get_attribute("value") == SWAHILI


def test_languages_and_modes_filter(page):
    page.find_element(By.CSS_SELECTOR, "#filter summary").click()
    page.find_element(By.CSS_SELECTOR, "#languages input[value=th]").click()
    hits = ask(page, SWAHILI)
    assert set(languages(hits)) == {"th"}
    assert "languages=th" in page.current_url
    page.find_element(By.CSS_SELECTOR, "#modes input[value=bm25]").click()
    WebDriverWait(page, 60).until(lambda _: "using=bm25" in page.current_url)


def test_examples_are_links_that_search(page):
    examples = page.find_elements(By.CSS_SELECTOR, "#examples a")
    assert len(examples) == 6
    arabic = page.find_element(By.CSS_SELECTOR, "#examples [lang=ar]")
    assert direction(page, arabic) == "rtl"
    examples[0].click()
    until(page, "#hits li")
    assert not page.find_element(By.ID, "examples").is_displayed()


def test_markup_in_a_question_stays_text_and_errors_are_told(page, url):
    page.get(f"{url}/?q=%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E")
    until(page, "#status", lambda found: "ms" in found[0].text)
    assert not page.find_elements(By.TAG_NAME, "img")
    page.get(f"{url}/?q=a&using=magic")
    alert = until(page, "#error", lambda found: found[0].is_displayed())[0]
    assert "using must be one of" in alert.text
    page.get_log("browser")  # the refused request is told there, as it should be


def test_the_description_is_readable(page, url):
    page.get(f"{url}/docs")
    sections = until(page, "#docs section h2", lambda found: len(found) > 10)
    assert "GET/search" in "".join(section.text.replace(" ", "") for section in sections)


def test_nothing_complains_and_nothing_leaves(page, url):
    page.get_log("browser")
    page.get_log("performance")
    ask(page, SWAHILI)
    page.refresh()
    until(page, "#hits li")
    until(page, "#hits", lambda found: found[0].value_of_css_property("opacity") == "1")
    if picture := os.environ.get("POLYSEEK_SCREENSHOT"):
        Path(picture).write_bytes(page.get_screenshot_as_png())
    assert page.get_log("browser") == []
    sent = [
        entry["message"] for entry in page.get_log("performance") if 'Network.requestWillBeSent"' in entry["message"]
    ]
    addresses = [json.loads(message)["message"]["params"]["request"]["url"] for message in sent]
    assert addresses
    assert all(address.startswith((url, "data:")) for address in addresses)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    systems = "bm25,bm25/no-neutral,rank-bm25"
    command = ["eval", str(demo_folder()), "--using", systems, "--report", str(folder / "report.html"), "--json"]
    assert main(command) == 0
    return folder / "report.html"


def test_a_report_needs_nothing_else_and_shows_everything(browser, report):
    browser.get(report.as_uri())
    rows = browser.find_elements(By.CSS_SELECTOR, ".systems tr")
    assert [row.text.split()[0] for row in rows] == ["system", "bm25", "bm25/no-neutral", "rank-bm25"]
    assert len(browser.find_elements(By.CSS_SELECTOR, ".comparison tr")) == 4
    assert len(browser.find_elements(By.CSS_SELECTOR, ".by-language tr")) == 19
    assert len(browser.find_elements(By.CSS_SELECTOR, ".heat")) == 3
    assert len(browser.find_elements(By.CSS_SELECTOR, ".heat")[0].find_elements(By.TAG_NAME, "tr")) == 19
    points = browser.find_elements(By.CSS_SELECTOR, "svg circle")
    assert len(points) == 6
    inside = """const [own, all] = [arguments[0], arguments[0].ownerSVGElement].map(x => x.getBoundingClientRect());
        return own.left >= all.left && own.right <= all.right && own.top >= all.top && own.bottom <= all.bottom"""
    assert all(browser.execute_script(inside, point) for point in points)
    assert "polyseek eval" in browser.find_element(By.TAG_NAME, "code").text
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0


def test_a_report_fits_a_phone(browser, report):
    size = browser.get_window_size()
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    )
    try:
        browser.get(report.as_uri())
        # Tables wider than the screen are moved by themselves, not with the page.
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
        for table in browser.find_elements(By.CSS_SELECTOR, ".wide"):
            assert table.size["width"] <= 360
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.set_window_size(size["width"], size["height"])
