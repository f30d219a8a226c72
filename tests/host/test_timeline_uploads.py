"""What becomes of files on their way to STIV Timeline, in the real front end, both renderers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from playwright.sync_api import Route, expect

from tests.host.front_end import FrontEnd
from tests.host.timeline_strip import alone, clip, picture


@contextmanager
def held_back(browser: FrontEnd) -> Iterator[Callable[[], None]]:
    """Uploads wait; the call lets the first of them go on."""
    waiting: list[Route] = []
    browser.page.route("**/upload/image", lambda route: waiting.append(route))

    def let_go() -> None:
        for _ in range(500):
            if waiting:
                return waiting[0].continue_()
            browser.page.wait_for_timeout(20)
        raise AssertionError("nothing was uploaded")

    try:
        yield let_go
    finally:
        browser.page.unroute("**/upload/image")


def test_a_broken_upload_says_so_and_loses_nothing(browser: FrontEnd) -> None:
    strip = alone(browser)
    strip.drop(picture("red"), at=3)
    strip.wait_for({3: "red.png"})
    kept = strip.text()
    answers: dict[str, Callable[[Route], None]] = {
        "could not be uploaded: the server answered 500": lambda route: route.fulfill(status=500),
        "could not be uploaded: the server does not answer": lambda route: route.abort(),
    }
    for message, answer in answers.items():
        browser.page.route("**/upload/image", answer)
        strip.drop(picture("blue"), at=6)
        expect(strip.alert).to_contain_text(f"blue.png {message}")
        browser.page.unroute("**/upload/image")
        assert strip.text() == kept
    assert all("/upload/image" in error for error in browser.errors)
    browser.errors.clear()

    strip.drop(("notes.txt", "text/plain", b"words"), ("bad.png", "image/png", b"words"), at=6)
    expect(strip.alert).to_contain_text("notes.txt is neither a picture nor a clip.")
    expect(strip.alert).to_contain_text("bad.png was uploaded but cannot be used")
    assert strip.text() == kept
    strip.drop(picture("blue"), at=6)
    strip.wait_for({3: "red.png", 6: "blue.png"})
    expect(strip.alert).to_be_hidden()


def test_what_arrives_after_the_node_is_gone_is_dropped_and_said(browser: FrontEnd) -> None:
    strip = alone(browser)
    with held_back(browser) as let_go:
        strip.drop(picture("red"), at=3)
        expect(strip.status).to_contain_text("Uploading red.png")
        browser.page.evaluate("app.graph.remove(app.graph.nodes[0])")
        let_go()
        toast = browser.page.get_by_role("alert").filter(
            has_text="no longer to be placed: red.png."
        )
        expect(toast).to_be_visible()
    assert browser.page.evaluate("app.graph.nodes.length") == 0


def test_a_web_page_in_place_of_an_answer_leaves_nothing_behind(browser: FrontEnd) -> None:
    strip = alone(browser)
    browser.page.route("**/upload/image", lambda route: route.fulfill(body="<p>Sign in</p>"))
    strip.drop(picture("red"), at=3)
    expect(strip.alert).to_contain_text("red.png could not be uploaded: the server answered 200")
    browser.page.unroute("**/upload/image")
    strip.drop(picture("blue"), at=3)  # no ghost of the first is in its way
    strip.wait_for({3: "blue.png"})


def test_undo_meanwhile_loses_no_file(browser: FrontEnd) -> None:
    strip = alone(browser)
    strip.drop(picture("red"), at=3)
    strip.wait_for({3: "red.png"})
    strip.stage.focus()
    with held_back(browser) as let_go:
        strip.drop(picture("blue"), at=8)
        expect(strip.status).to_contain_text("Uploading blue.png")
        strip.undo({})
        let_go()
        strip.wait_for({8: "blue.png"})
    expect(strip.status).to_have_text("blue.png placed at frame 8.")


def test_a_text_that_breaks_meanwhile_is_kept(browser: FrontEnd) -> None:
    strip = alone(browser)
    with held_back(browser) as let_go:
        strip.drop(picture("red"), at=3)
        expect(strip.status).to_contain_text("Uploading red.png")
        strip.tool("Edit as text").click()
        editor = browser.page.get_by_role("textbox", name="The timeline as JSON")
        editor.fill("{ half a text")
        editor.blur()
        expect(strip.alert).to_contain_text("its text is kept as it is")
        let_go()
        expect(strip.alert).to_contain_text("no longer to be placed: red.png.")
    assert strip.text() == "{ half a text"


def test_a_browser_that_has_no_frame_yet_is_asked_again(browser: FrontEnd) -> None:
    """As a busy one does between telling of a video's first frame and having it."""
    strip = alone(browser)
    browser.page.evaluate(
        """() => {
            const real = window.createImageBitmap;
            window.refused = 0;
            window.createImageBitmap = (source, ...rest) => {
                if (!(source instanceof HTMLVideoElement) || window.refused === 3)
                    return real(source, ...rest);
                window.refused++;
                const why = new DOMException("The provided element's player has no current data.",
                    "InvalidStateError");
                return Promise.reject(why);
            };
            window.restore = () => (window.createImageBitmap = real);
        }"""
    )
    strip.drop(clip("late.mp4"), at=2)
    strip.wait_for({2: "late.mp4"})
    assert browser.page.evaluate("window.restore(), window.refused") == 3
    (item,) = strip.items()
    assert item["thumb"].startswith("data:image/webp;base64,")


def test_what_is_no_part_of_a_timeline_is_not_pasted_and_said(browser: FrontEnd) -> None:
    strip = alone(browser)
    strip.stage.focus()
    strip.paste_text("words")
    expect(strip.alert).to_contain_text("neither a picture, a clip nor part of a timeline")
    assert strip.items() == []
