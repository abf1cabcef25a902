"""Looks at lb-sync's page in a real browser, headless, by its debugging protocol.

Usage: page.py URL FOLDER; then a line of input for each thing to do, and a line of output for each answer:
  text           what a person reads, as JSON
  await TEXT     until TEXT is there; the browser's clock in ms when it appeared
  shot NAME      a picture, as FOLDER/NAME.png
  run SCRIPT     what the script comes to, as JSON
  emulate W dark|light
"""
import base64
import json
import os
import subprocess
import sys
import time
import urllib.request

import websocket

url, folder = sys.argv[1:]
profile = os.path.join(folder, "profile")
browser = subprocess.Popen(
    ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
     "--disable-background-networking", "--remote-allow-origins=*", "--remote-debugging-port=0",
     f"--user-data-dir={profile}", "about:blank"],
    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
try:
    active = os.path.join(profile, "DevToolsActivePort")
    end = time.monotonic() + 60
    while not (os.path.exists(active) and open(active).read().count("\n")):
        assert browser.poll() is None and time.monotonic() < end, "the browser does not start"
        time.sleep(0.05)
    port = open(active).readline().strip()
    while not (pages := [page for page in json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/json")) if page["type"] == "page"]):
        assert time.monotonic() < end, "the browser has no page"
        time.sleep(0.05)
    socket = websocket.create_connection(pages[0]["webSocketDebuggerUrl"], timeout=60)
    count = 0

    def call(method, **params):
        global count
        count += 1
        socket.send(json.dumps({"id": count, "method": method, "params": params}))
        while True:
            answer = json.loads(socket.recv())
            if answer.get("id") == count:
                assert "error" not in answer, answer
                return answer["result"]

    def run(script, **more):
        result = call("Runtime.evaluate", expression=script, returnByValue=True, **more)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    call("Page.enable")
    call("Page.navigate", url=url)
    while run("document.readyState") != "complete" or not run("location.href").startswith("http"):
        time.sleep(0.02)
    print("ready", flush=True)
    for line in sys.stdin:
        deed, _, argument = line.rstrip("\n").partition(" ")
        if deed == "text":
            answer = json.dumps(run("document.body.innerText"), ensure_ascii=False)
        elif deed == "await":
            script = """new Promise((there) => {
                const look = () => document.body.innerText.includes(TEXT) ? there(Date.now()) : null;
                new MutationObserver(look).observe(document.body, {childList: true, subtree: true, characterData: true});
                look();
            })""".replace("TEXT", json.dumps(argument))
            answer = str(run(script, awaitPromise=True))
        elif deed == "shot":
            picture = call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
            with open(os.path.join(folder, argument + ".png"), "wb") as file:
                file.write(base64.b64decode(picture["data"]))
            answer = "done"
        elif deed == "run":
            answer = json.dumps(run(argument), ensure_ascii=False)
        elif deed == "emulate":
            width, scheme = argument.split()
            call("Emulation.setDeviceMetricsOverride", width=int(width), height=900, deviceScaleFactor=1, mobile=int(width) < 600)
            call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
            answer = "done"
        else:
            raise ValueError(line)
        print(answer, flush=True)
finally:
    browser.kill()
    browser.wait()
