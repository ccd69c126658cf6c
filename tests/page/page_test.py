#!/usr/bin/env python3
"""The page at / in Chromium: asks a question, stops an answer, and looks at what is shown.

    tests/page/page_test.py WINNOW MODEL                    the test; exits 77 without Chromium and its driver
    tests/page/page_test.py WINNOW MODEL --document FILE --question TEXT --screenshot OUT.png
                                                            a picture of an answer about a document
"""
import argparse
import base64
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"    # the key of an element's id in WebDriver's answers


class Browser:
    """Chromium without a window, over the WebDriver protocol."""

    def __init__(self, profile):
        self.driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, text=True)
        for line in self.driver.stdout:
            if found := re.search(r"started successfully on port (\d+)", line):
                self.base = f"http://127.0.0.1:{found.group(1)}"
                break
        options = {"args": ["--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,900",
                            f"--user-data-dir={profile}"]}
        answer = self.call("POST", "/session", {"capabilities": {"alwaysMatch": {
            "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}}})
        self.session = f"/session/{answer['sessionId']}"

    def call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data, {"Content-Type": "application/json"},
                                         method=method)
        with urllib.request.urlopen(request, timeout=300) as response:
            return json.load(response)["value"]

    def open(self, url):
        self.call("POST", self.session + "/url", {"url": url})

    def script(self, text):
        return self.call("POST", self.session + "/execute/sync", {"script": text, "args": []})

    def find(self, selector):
        found = self.call("POST", self.session + "/element", {"using": "css selector", "value": selector})
        return f"{self.session}/element/{found[ELEMENT]}"

    def type(self, selector, text):
        self.call("POST", self.find(selector) + "/value", {"text": text})

    def click(self, selector):
        self.call("POST", self.find(selector) + "/click", {})

    def wait(self, condition, seconds=120):
        end = time.time() + seconds
        while time.time() < end:
            if self.script("return " + condition):
                return
            time.sleep(0.1)
        raise AssertionError(f"waited {seconds} s for {condition}; the page says:\n{self.text()}")

    def text(self):
        return self.script("return document.body.innerText")

    def complaints(self):
        return [entry for entry in self.call("POST", self.session + "/se/log", {"type": "browser"})
                if entry["level"] == "SEVERE"]

    def screenshot(self, path):
        path.write_bytes(base64.b64decode(self.call("GET", self.session + "/screenshot")))

    def close(self):
        try:
            self.call("DELETE", self.session)
        finally:
            self.driver.terminate()


def start_server(winnow, model, log):
    server = subprocess.Popen([winnow, "serve", model, "--port", "0", "--price", "0.50", "--log-file", log],
                              stderr=subprocess.PIPE, text=True)
    for line in server.stderr:
        if found := re.search(r"listening on (\S+)", line):
            return server, found.group(1)
    sys.exit("the server did not start")


def wait_until_loaded(address):
    for _ in range(600):
        try:
            urllib.request.urlopen(address + "/health")
            return
        except OSError:
            time.sleep(0.1)
    sys.exit("the model did not load")


def check_page(browser):
    assert "winnow-nano" in browser.script("return document.getElementById('model').innerText")
    browser.wait("document.querySelectorAll('#curve polyline').length == 2")
    browser.type("#say", "What does winnowing <b>separate</b>?\n")
    browser.wait("document.querySelector('.turn .cost') && !document.getElementById('send').disabled")
    turns = browser.script("return [...document.querySelectorAll('.turn')].map(turn => turn.innerText)")
    assert len(turns) == 2, turns
    assert "<b>separate</b>" in turns[0], turns    # text stays text
    bill = browser.script("return document.getElementById('bill').innerText")
    for line in ("prompt", "rows read", "dense would read", "cost"):
        assert line in bill, bill
    assert "$" in bill, bill

    # A second turn finds the first in the cache.
    browser.type("#say", "And then?\n")
    browser.wait("document.querySelectorAll('.turn .cost').length == 2")
    cached = browser.script("return document.querySelectorAll('#bill td')[3].innerText")
    assert int(cached.replace(",", "")) > 10, cached

    # An answer can be stopped, and the page goes on.
    browser.script("document.getElementById('length').value = 4000;"
                   "document.getElementById('greedy').checked = false")
    browser.type("#say", "Tell a long story.\n")
    browser.wait("!document.getElementById('stop').disabled")
    browser.click("#stop")
    browser.wait("!document.getElementById('send').disabled")
    browser.click("#clear")
    assert browser.script("return document.querySelectorAll('.turn').length") == 0
    assert not browser.complaints(), browser.complaints()


def picture(browser, arguments):
    browser.type("#file", str(pathlib.Path(arguments.document).resolve()))
    browser.wait("document.getElementById('document').innerText.includes('bytes')")
    browser.type("#say", arguments.question + "\n")
    browser.wait("document.querySelector('.turn .cost') && !document.getElementById('send').disabled", 600)
    time.sleep(1.5)
    browser.screenshot(pathlib.Path(arguments.screenshot))
    print(browser.text())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("winnow")
    parser.add_argument("model")
    parser.add_argument("--document")
    parser.add_argument("--question")
    parser.add_argument("--screenshot")
    arguments = parser.parse_args()
    if not shutil.which("chromium") or not shutil.which("chromedriver"):
        print("chromium or chromedriver is not installed")
        sys.exit(77)
    with tempfile.TemporaryDirectory() as folder:
        server, address = start_server(arguments.winnow, arguments.model, folder + "/log")
        browser = None
        try:
            wait_until_loaded(address)
            browser = Browser(folder + "/profile")
            browser.open(address + "/")
            browser.wait("document.getElementById('now').rows.length > 0")
            picture(browser, arguments) if arguments.screenshot else check_page(browser)
        finally:
            if browser:
                browser.close()
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
