"use strict";
// Tables: a click on a column's head sorts by it, empty cells last.
const sortKey = (row, column) => row.cells[column].dataset.sort ?? row.cells[column].textContent.trim();
const compare = (a, b) => a === "" || b === "" ? (a === "") - (b === "")
  : isNaN(a) || isNaN(b) ? a.localeCompare(b, undefined, {numeric: true}) : a - b;

function sortable(table) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => {
    if (!head.textContent.trim()) return;
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      body.append(...[...body.rows].sort((a, b) => {
        const x = sortKey(a, column), y = sortKey(b, column), order = compare(x, y);
        return up || x === "" || y === "" ? order : -order;
      }));
    });
  });
}
document.querySelectorAll("table.sortable").forEach(sortable);

// Long tables: a field that keeps the rows that hold its text.
const slides = document.getElementById("slides"), rows = [...slides.tBodies[0].rows];
if (rows.length > 12) {
  const label = document.createElement("label"), field = document.createElement("input");
  const count = document.createElement("output");
  label.className = "filter";
  field.type = "search";
  field.placeholder = "name, status, reason, flag …";
  label.append("Show only ", field, count);
  field.addEventListener("input", () => {
    const wanted = field.value.trim().toLowerCase();
    for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
    count.textContent = wanted ? `${rows.filter(row => !row.hidden).length} of ${rows.length}` : "";
  });
  slides.parentElement.before(label);
}

// Pictures: open large; zoom with wheel, pinch, double click, + and -; move by dragging or with the arrow keys.
const viewer = document.getElementById("viewer"), stage = viewer.querySelector(".stage");
const large = stage.appendChild(new Image()), caption = viewer.querySelector(".caption");
const openers = [...document.querySelectorAll("a.zoom")], fingers = new Map();
let current = 0, scale = 1, x = 0, y = 0;

const fitted = () => Math.min(stage.clientWidth / large.width, stage.clientHeight / large.height);
function draw() {
  const free = (size, room) => Math.max(0, (size - room) / 2);
  const zoom = fitted() * scale;
  const roomX = free(large.width * zoom, stage.clientWidth), roomY = free(large.height * zoom, stage.clientHeight);
  x = Math.min(roomX, Math.max(-roomX, x));
  y = Math.min(roomY, Math.max(-roomY, y));
  large.style.transform = `translate(-50%, -50%) translate(${x}px, ${y}px) scale(${zoom})`;
  stage.classList.toggle("zoomed", scale > 1);
}
function zoomBy(factor, px = 0, py = 0) {  // around a point given from the middle of the stage
  const next = Math.min(16, Math.max(1, scale * factor)), grown = next / scale;
  x = px - (px - x) * grown;
  y = py - (py - y) * grown;
  scale = next;
  draw();
}
function show(index) {
  current = (index + openers.length) % openers.length;
  const picture = openers[current].querySelector("img");
  large.width = picture.getAttribute("width");
  large.height = picture.getAttribute("height");
  large.src = picture.src;
  large.alt = picture.alt;
  caption.textContent = openers[current].dataset.name;
  scale = 1;
  x = y = 0;
  draw();
}
const fromMiddle = point => {
  const box = stage.getBoundingClientRect();
  return [point.clientX - box.left - box.width / 2, point.clientY - box.top - box.height / 2];
};
openers.forEach((opener, index) => opener.addEventListener("click", event => {
  if (event.ctrlKey || event.metaKey || event.shiftKey) return;  // the file itself, in a tab of its own
  event.preventDefault();
  viewer.showModal();
  show(index);
}));
const actions = {
  in: () => zoomBy(1.5), out: () => zoomBy(1 / 1.5), fit: () => show(current),
  before: () => show(current - 1), next: () => show(current + 1), close: () => viewer.close(),
};
viewer.addEventListener("click", event => {
  const action = event.target.closest("button")?.dataset.action;
  if (action) actions[action]();
});
const step = 80, keys = {
  "+": actions.in, "=": actions.in, "-": actions.out, "0": actions.fit, PageUp: actions.before, PageDown: actions.next,
  ArrowLeft: () => { x += step; draw(); }, ArrowRight: () => { x -= step; draw(); },
  ArrowUp: () => { y += step; draw(); }, ArrowDown: () => { y -= step; draw(); },
};
viewer.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in keys)) return;
  event.preventDefault();
  keys[event.key]();
});
stage.addEventListener("wheel", event => {
  event.preventDefault();
  zoomBy(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)), ...fromMiddle(event));
}, {passive: false});
stage.addEventListener("dblclick", event => scale > 1 ? show(current) : zoomBy(3, ...fromMiddle(event)));
stage.addEventListener("pointerdown", event => {
  stage.setPointerCapture(event.pointerId);
  fingers.set(event.pointerId, fromMiddle(event));
});
stage.addEventListener("pointermove", event => {
  const old = fingers.get(event.pointerId), now = fromMiddle(event);
  if (!old) return;
  const other = [...fingers].find(([id]) => id !== event.pointerId)?.[1];
  if (other) {
    const distance = point => Math.hypot(point[0] - other[0], point[1] - other[1]) || 1;
    zoomBy(distance(now) / distance(old), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
  }
  const share = other ? 0.5 : 1;  // each of two fingers moves the point between them by half
  x += share * (now[0] - old[0]);
  y += share * (now[1] - old[1]);
  fingers.set(event.pointerId, now);
  draw();
});
for (const end of ["pointerup", "pointercancel"])
  stage.addEventListener(end, event => fingers.delete(event.pointerId));
addEventListener("resize", () => viewer.open && draw());
