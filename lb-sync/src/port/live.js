// Keeps the page current. Without it the page reloads itself.
const live = new EventSource("/live");
const content = document.getElementById("live");
const line = document.getElementById("line");
live.onmessage = (event) => { content.innerHTML = event.data; line.textContent = "live"; };
live.onerror = () => { line.textContent = "lb-sync does not answer: what is shown may be out of date"; };
