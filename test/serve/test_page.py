"""The page in Chromium with a fake microphone, against a stand-in of the server and against the server itself."""

import base64
import importlib.util
import io
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed (extra `page`)")
expect = playwright.expect
expect.set_options(timeout=20_000)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")

_spec = importlib.util.spec_from_file_location("page_server", Path(__file__).with_name("page_server.py"))
page_server = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(page_server)
tone, wav = page_server.tone, page_server.wav
# What a browser itself writes into the console where a request is answered so, or not at all.
EXPECTED = r"Failed to load resource: (the server responded with a status of 40[01]|net::ERR_CONNECTION_REFUSED)"


@pytest.fixture
def server():
    with page_server.StandIn() as server:
        yield server


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    said = tmp_path_factory.mktemp("microphone") / "said.wav"
    soundfile.write(said, tone(3.0, 16000), 16000)
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=[
            "--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
            f"--use-file-for-fake-audio-capture={said}"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    """Opens a page; in the end, nothing may have left this machine, and nothing have gone wrong in the console."""
    contexts, addresses, complaints = [], [], []

    def open_at(url, **options):
        contexts.append(browser.new_context(permissions=["microphone"], **options))
        page = contexts[-1].new_page()
        page.set_default_timeout(20_000)
        page.on("request", lambda request: addresses.append(request.url))
        page.on("console", lambda message: complaints.append(message.text) if message.type in ("error", "warning")
                and not re.match(EXPECTED, message.text) else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(url)
        return page

    yield open_at
    for context in contexts:
        context.close()
    assert not [url for url in addresses if not re.match(r"(blob:)?http://127\.0\.0\.1:|data:image/svg", url)]
    assert not complaints


def upload(page, *files: dict) -> None:
    page.locator("#file").set_input_files(list(files))


def send(page, text: str = "", problem: str = "") -> None:
    page.get_by_label("Text, or an instruction").fill(text)
    page.keyboard.press("Enter")
    expect(page.locator(".problem" if problem else ".reply").last).to_contain_text(problem or "Ende")
    expect(page.get_by_role("button", name="Send")).to_be_visible()


def sounds(message: dict) -> list[tuple[np.ndarray, int]]:
    return [soundfile.read(io.BytesIO(base64.b64decode(part["input_audio"]["data"])), dtype="float32")
            for part in message["content"] if part["type"] == "input_audio"]


def test_a_recording_is_shown_sent_and_answered(server, open_page):
    page = open_page(server.url)
    page.get_by_role("button", name="Record").click()
    page.get_by_role("button", name="Discard").click()
    page.get_by_role("button", name="Record").click()
    expect(page.locator("#elapsed")).to_contain_text("0:01")
    page.get_by_role("button", name="Finish").click()
    expect(page.locator(".heard")).to_contain_text("the farmer sold")
    page.get_by_label("Instruction", exact=True).select_option(label="Repeat")
    send(page)
    (asked,) = server.asked
    assert asked["messages"][0]["content"][0] == {"type": "text", "text": "Repeat the following text."}
    ((samples, rate),) = sounds(asked["messages"][0])
    assert rate == 16000 and samples.ndim == 1 and 0.9 < len(samples) / rate < 20 and np.abs(samples).max() > 0.05


def test_uploads_are_mixed_down_converted_and_can_be_removed(server, open_page):
    page = open_page(server.url)
    left = tone(1.0, 44100)
    upload(page, wav(np.stack([left, np.zeros_like(left)], 1), 44100, "both.wav"), wav(tone(0.5, 16000), 16000))
    expect(page.get_by_role("figure", name="both.wav")).to_contain_text("2 channels, mixed to one")
    page.get_by_role("button", name="Remove said.wav").click()
    send(page)
    ((samples, rate),) = sounds(server.asked[0]["messages"][0])
    assert rate == 16000 and abs(len(samples) - rate) < 50
    assert np.abs(samples[1000:-1000]).max() == pytest.approx(0.2, abs=0.01)


def test_16_bit_audio_arrives_bit_for_bit(server, open_page):
    page = open_page(server.url)
    samples = np.random.default_rng(0).integers(-32768, 32768, 8000).astype(np.int16)
    upload(page, wav(samples, 16000))
    send(page)
    ((arrived, _),) = sounds(server.asked[0]["messages"][0])
    assert np.array_equal((32768 * arrived).astype(np.int16), samples)


def test_a_conversation_keeps_its_turns_and_recordings(server, open_page):
    page = open_page(server.url)
    upload(page, wav(tone(0.4, 16000), 16000, "first.wav"), wav(tone(1.5, 16000), 16000, "second.wav"))
    expect(page.locator(".clip")).to_have_count(2)
    send(page, "compare")
    send(page, "and now?")
    roles = [message["role"] for message in server.asked[1]["messages"]]
    assert roles == ["user", "assistant", "user"]
    first, reply, _ = server.asked[1]["messages"]
    assert [len(samples) for samples, _ in sounds(first)] == [6400, 24000]
    assert reply["content"] == "Straße, <b>not bold</b>, Ende"
    page.get_by_role("button", name="Play second.wav").click()
    expect(page.get_by_role("button", name="Pause second.wav")).to_be_visible()
    expect(page.get_by_role("button", name="Play second.wav")).to_be_visible()  # again, at its end
    page.get_by_text("Options").click()
    page.get_by_label("Send earlier turns along").uncheck()
    send(page, "alone")
    page.get_by_label("Send earlier turns along").check()
    page.get_by_role("button", name="New conversation").click()
    expect(page.locator(".turn")).to_have_count(0)
    send(page, "hello")
    assert [len(asked["messages"]) for asked in server.asked[2:]] == [1, 1]


def test_a_reply_is_stopped_and_the_server_notices(server, open_page):
    page = open_page(server.url)
    page.get_by_label("Text, or an instruction").fill("slowly")
    page.keyboard.press("Enter")
    expect(page.locator(".reply")).to_contain_text("piece piece")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".meta")).to_have_text("Stopped")
    assert server.gone.wait(10)
    send(page, "go on")
    assert server.asked[1]["messages"][1]["content"].startswith("piece piece")


@pytest.mark.parametrize("text, message", [("refuse", "messages[0]: is refused"),
                                           ("break", "The connection ended before the reply did.")])
def test_a_failure_is_told_and_left_out_of_the_conversation(server, open_page, text, message):
    page = open_page(server.url)
    send(page, text, problem=message)
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".problem")).to_contain_text(message)
    send(page, "hello")
    assert len(server.asked) == 3 and len(server.asked[2]["messages"]) == 1


@pytest.mark.parametrize("file, message", [
    ({"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no audio"}, "notes.txt: the browser cannot read this"),
    (wav(np.zeros(8000, np.float32), 16000), "said.wav is silent")])
def test_files_without_sound_are_told(server, open_page, file, message):
    page = open_page(server.url)
    upload(page, file)
    expect(page.get_by_role("status")).to_contain_text(message)
    expect(page.locator(".clip")).to_have_count(0)


def test_a_dead_server_is_told(server, open_page):
    page = open_page(server.url)
    page.route("**/v1/chat/completions", lambda route: route.abort("connectionrefused"))
    send(page, "hello", problem="The server cannot be reached")


def test_a_key_is_asked_for_and_kept_in_this_tab_only(server, open_page):
    server.key = "open sesame"
    page = open_page(server.url)
    for key, after in (("wrong", "The key was not accepted"), ("open sesame", "")):
        page.get_by_label("API key").fill(key)
        page.keyboard.press("Enter")
        expect(page.locator("#key-note" if after else "#model")).to_contain_text(after or "stand-in")
    send(page, "hello")
    assert page.evaluate("[localStorage.length, document.cookie, sessionStorage.length]") == [0, "", 1]


def test_what_was_heard_is_also_told_in_words(server, open_page):
    page = open_page(server.url)
    upload(page, wav(tone(1.5, 16000), 16000))
    page.get_by_text("3 speech tokens").click()
    expect(page.get_by_role("row").nth(2)).to_have_text("farmer0.50 to 1.00 s40%")
    place = page.get_by_role("slider")
    place.press("ArrowRight")
    expect(place).to_have_attribute("aria-valuetext", "0.50 seconds, farmer, 40% sure")


def test_the_picture_shows_the_curve_and_the_fires(server, open_page):
    page = open_page(server.url)
    upload(page, wav(tone(1.5, 16000), 16000))
    expect(page.locator(".heard")).to_be_visible()
    fires = page.evaluate("""() => {
        const canvas = document.querySelector(".strip canvas");
        const row = canvas.getContext("2d").getImageData(0, 57 * devicePixelRatio, canvas.width, 1).data;
        return Array.from({length: canvas.width}, (_, x) => row.slice(4 * x, 4 * x + 4)).flatMap(
            ([red, green, blue, opacity], x) => opacity > 200 && red > green + 40 ? [x / canvas.width] : []);
    }""")
    assert [place for place in (1 / 3, 2 / 3, 1) if min(abs(place - fire) for fire in fires) > 0.01] == []


def test_the_keyboard_reaches_everything_in_order(server, open_page):
    page = open_page(server.url)
    upload(page, wav(tone(1.5, 16000), 16000))
    expect(page.locator(".heard")).to_be_visible()
    page.locator("#new").focus()
    names = []
    for _ in range(10):
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.id || document.activeElement.className"
                                   " || document.activeElement.tagName"))
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert names == ["round", "plain round", "strip", "SUMMARY", "text", "instruction", "record", "upload", "send",
                     "SUMMARY"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_every_width_and_scheme_is_usable(server, open_page, width, scheme):
    page = open_page(server.url, viewport={"width": width, "height": 720}, color_scheme=scheme)
    upload(page, wav(tone(1.5, 16000), 16000, "a-long-name-without-any-blank-" * 4 + ".wav"))
    expect(page.locator(".heard")).to_be_visible()
    send(page, "x" * 300)
    send(page, "refuse", problem="messages[0]")
    upload(page, wav(tone(1.5, 16000), 16000))
    expect(page.locator(".heard")).to_have_count(2)
    for summary in page.locator("summary").all():
        summary.click()
    assert page.evaluate("document.documentElement.scrollWidth") == width
    axe = pytest.importorskip("axe_playwright_python.base", reason="axe-playwright-python is not installed")
    page.evaluate(axe.AXE_FILE_PATH.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run()")["violations"]
    assert not [(rule["id"], rule["nodes"][0]["html"]) for rule in found if rule["impact"] in ("serious", "critical")]


def test_a_microphone_that_is_not_allowed_is_told(server, open_page):
    page = open_page(server.url)
    page.evaluate("""() => {
        navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException("", "NotAllowedError"));
    }""")
    page.get_by_role("button", name="Record").click()
    expect(page.get_by_role("status")).to_contain_text("The microphone is not allowed")


def test_files_can_be_dropped(server, open_page):
    page = open_page(server.url)
    data = base64.b64encode(wav(tone(0.5, 16000), 16000)["buffer"]).decode()
    page.evaluate("""data => {
        const dropped = new DataTransfer();
        dropped.items.add(new File([Uint8Array.from(atob(data), byte => byte.charCodeAt(0))], "dropped.wav"));
        document.body.dispatchEvent(new DragEvent("drop", {dataTransfer: dropped, bubbles: true, cancelable: true}));
    }""", data)
    expect(page.get_by_role("figure", name="dropped.wav")).to_contain_text("the farmer sold")


def test_a_slow_model_blocks_nothing(running, model, slow, open_page):
    slow(1.0)
    with running(model) as server:
        page = open_page(server.address)
        upload(page, wav(tone(1.0, 16000), 16000))
        page.get_by_role("button", name="Send").click()
        expect(page.locator(".meta")).to_contain_text(re.compile("Listening|Replying"))
        page.get_by_label("Text, or an instruction").fill("meanwhile")
        page.get_by_role("button", name="Stop").click()
        expect(page.locator(".meta")).to_contain_text("Stopped")


def test_the_server_replies_to_a_recording_as_the_python_api(running, model, open_page):
    with running(model) as server:
        page = open_page(server.address)
        page.get_by_text("Options").click()
        page.get_by_label("Longest reply").fill("12")
        page.get_by_label("Instruction", exact=True).select_option(label="Repeat")
        page.get_by_role("button", name="Record").click()
        expect(page.locator("#elapsed")).to_contain_text("0:01")
        with page.expect_request("**/v1/chat/completions") as asked:
            page.get_by_label("Text, or an instruction").press("Enter")  # ends the recording, too
        expect(page.locator(".meta")).to_contain_text(re.compile(r"\d tokens? · "))
        expect(page.locator(".heard")).to_be_visible()
        reply = page.locator(".reply").text_content()
    instruction, sound = asked.value.post_data_json["messages"][0]["content"]
    audio = {"type": "audio", "audio": base64.b64decode(sound["input_audio"]["data"])}
    assert reply == model.chat([{"role": "user", "content": [instruction, audio]}], max_new_tokens=12).text
