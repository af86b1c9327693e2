// The drawing: its strokes, and the paper, pointers and keys that make them.
//
// A stroke is {points: [[x, y, pressure]], size, pressed}. A state is a list of strokes. A finished stroke never
// changes, so that states share strokes.

import { $, announce, clamped, on, remember, remembered } from "./basics.js";
import { getStroke } from "./vendor/perfect-freehand/index.mjs";

const PAPER = 1000; // Side of the paper in its own units. A resize, zoom or rotation changes the scale only.
const CLOSEST = 1; // Distance of two points of a line, in units of the paper.
const STATES = 200; // Steps that can be undone.
const PALM = 8; // Points of a cancelled touch, at most, that is no line.
const STEP = { small: 10, large: 50 }; // Of the pen, moved by keys.
const ERASER = 12; // Reach beyond the edge of a line.
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const ERASER_END = 32; // The bit of PointerEvent.buttons.

const canvas = $("canvas");
const ink = canvas.getContext("2d");
const sheet = { canvas: document.createElement("canvas"), strokes: null }; // Finished strokes: a frame copies them.
const paths = new WeakMap(); // Finished stroke -> its outline.
const cursor = { x: PAPER / 2, y: PAPER / 2, shown: false }; // Of the keys.
const past = { states: [[]], at: 0 };
let gesture = null; // What the pen does now: {owner, stroke} draws, {owner, kept, at} erases.
let blocked = false; // Something else is the query and covers the paper.
let frame = 0;
let heard = {}; // {changed, moved}: who hears of a finished change, and of each move of the pen.

const now = () => past.states[past.at];

// For the page.

export function openPaper(listener) {
  heard = listener;
  $("width").value = remembered("width") ?? $("width").value;
  restore();
  listen();
  refreshTools();
  requestDraw();
}

export const isDrawing = () => gesture !== null;

// A single point is a speck that the service calls blank.
export const isEmpty = () => count(shownStrokes().map((stroke) => stroke.points)) < 2;

export function blockPaper(value) {
  abandon();
  blocked = value;
  canvas.inert = value;
  refreshTools();
}

// The strokes as the service reads them, with no more points than `limit`.
export function strokesToSend(limit) {
  let lines = shownStrokes().map((stroke) => stroke.points);
  for (let least = 2 * CLOSEST; count(lines) > limit && least < 2 * PAPER; least *= 1.5) {
    lines = lines.map((line) => thinned(line, least));
  }
  if (count(lines) > limit) lines = lines.slice(-Math.floor(limit / 2)); // A line has two points left, or one.
  return lines.map((line) => [line.map(([x]) => x), line.map(([, y]) => y)]);
}

const count = (lines) => lines.reduce((sum, line) => sum + line.length, 0);

function thinned(line, least) {
  const kept = [line[0]];
  for (const point of line.slice(1, -1)) {
    if (distance(point, kept.at(-1)) >= least) kept.push(point);
  }
  return line.length > 1 ? [...kept, line.at(-1)] : kept;
}

const distance = ([ax, ay], [bx, by]) => Math.hypot(ax - bx, ay - by);

// States.

function shownStrokes() {
  if (!gesture) return now();
  return gesture.kept ?? [...now(), gesture.stroke];
}

function commit(strokes) {
  past.states = [...past.states.slice(0, past.at + 1), strokes].slice(-STATES);
  past.at = past.states.length - 1;
  changed();
}

function goTo(at) {
  if (gesture || blocked || !past.states[at]) return;
  announce(at < past.at ? "Undone" : "Done again");
  past.at = at;
  changed();
}

function clear() {
  abandon();
  if (!now().length) return;
  commit([]);
  announce("Cleared");
}

function changed() {
  save();
  refreshTools();
  requestDraw();
  heard.changed();
}

function save() {
  const pool = [...new Set(past.states.flat())];
  const place = new Map(pool.map((stroke, i) => [stroke, i]));
  const states = past.states.map((strokes) => strokes.map((stroke) => place.get(stroke)));
  remember("drawing", { pool, states, at: past.at });
}

function restore() {
  const saved = remembered("drawing");
  if (!saved) return;
  past.states = saved.states.map((strokes) => strokes.map((i) => saved.pool[i]));
  past.at = saved.at;
}

// A gesture of the pen: the same by mouse, touch, stylus and keys.

function begin(point, { owner, erase, pressed }) {
  if (erase) gesture = { owner, kept: now(), at: point };
  else gesture = { owner, stroke: { points: [], size: Number($("width").value), pressed } };
  extend([point]);
}

function extend(points) {
  for (const point of points) {
    if (gesture.kept) eraseTo(point);
    else addPoint(gesture.stroke.points, point);
  }
  requestDraw();
  heard.moved();
}

function addPoint(points, point) {
  if (points.length && distance(point, points.at(-1)) < CLOSEST) return;
  const [x, y, pressure] = point;
  points.push([Math.round(10 * x) / 10, Math.round(10 * y) / 10, Math.round(100 * pressure) / 100]);
}

// A fast eraser reports points that are far apart: it erases on the way, too.
function eraseTo([x, y]) {
  const [fromX, fromY] = gesture.at;
  const steps = Math.ceil(distance([x, y], gesture.at) / ERASER) || 1;
  for (let i = 1; i <= steps; i++) {
    gesture.at = [fromX + ((x - fromX) * i) / steps, fromY + ((y - fromY) * i) / steps];
    gesture.kept = gesture.kept.filter((stroke) => !touches(stroke, gesture.at));
  }
}

function finish() {
  const { kept, stroke } = gesture;
  gesture = null;
  if (stroke) commit([...now(), stroke]);
  else if (kept.length < now().length) commit(kept);
}

function abandon() {
  gesture = null;
  requestDraw();
}

function touches({ points, size }, point) {
  return points.some((from, i) => toSegment(point, from, points[i + 1] ?? from) < size / 2 + ERASER);
}

function toSegment([x, y], [ax, ay], [bx, by]) {
  const along = ((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / ((bx - ax) ** 2 + (by - ay) ** 2 || 1);
  const share = clamped(along, 0, 1);
  return distance([x, y], [ax + share * (bx - ax), ay + share * (by - ay)]);
}

// The paper.

function requestDraw() {
  frame ||= requestAnimationFrame(draw);
}

function draw() {
  frame = 0;
  const side = Math.max(1, Math.round(canvas.clientWidth * devicePixelRatio));
  if (canvas.width !== side) canvas.width = canvas.height = side;
  const strokes = gesture?.kept ?? now();
  if (sheet.strokes !== strokes || sheet.canvas.width !== side) drawSheet(strokes, side);
  ink.setTransform(1, 0, 0, 1, 0, 0);
  ink.clearRect(0, 0, side, side);
  ink.drawImage(sheet.canvas, 0, 0);
  ink.scale(side / PAPER, side / PAPER);
  if (gesture?.stroke) ink.fill(outline(gesture.stroke));
  if (cursor.shown) drawCursor();
  $("hint").hidden = shownStrokes().length > 0;
}

function drawSheet(strokes, side) {
  sheet.strokes = strokes;
  sheet.canvas.width = sheet.canvas.height = side; // This clears it, too.
  const brush = sheet.canvas.getContext("2d");
  brush.scale(side / PAPER, side / PAPER);
  for (const stroke of strokes) brush.fill(pathOf(stroke));
}

function drawCursor() {
  ink.beginPath();
  ink.arc(cursor.x, cursor.y, 14, 0, 2 * Math.PI);
  ink.fillStyle = gesture ? "#0b57a4" : "#fff";
  ink.fill();
  ink.lineWidth = 5;
  ink.strokeStyle = "#0b57a4";
  ink.stroke();
  ink.fillStyle = "#000";
}

function pathOf(stroke) {
  if (!paths.has(stroke)) paths.set(stroke, outline(stroke));
  return paths.get(stroke);
}

// A mouse and a finger have no pressure: perfect-freehand makes it from the speed.
function outline({ points, size, pressed }) {
  const thinning = pressed ? 0.6 : 0.3;
  const corners = getStroke(points, { size, thinning, streamline: 0.3, simulatePressure: !pressed, last: true });
  const path = new Path2D();
  corners.forEach(([x, y], i) => {
    const [nextX, nextY] = corners[(i + 1) % corners.length];
    if (i === 0) path.moveTo(x, y);
    path.quadraticCurveTo(x, y, (x + nextX) / 2, (y + nextY) / 2);
  });
  path.closePath();
  return path;
}

// Pointers. One draws at a time.

function pointOf(event) {
  const box = canvas.getBoundingClientRect();
  const x = ((event.clientX - box.left) / box.width) * PAPER;
  const y = ((event.clientY - box.top) / box.height) * PAPER;
  return [clamped(x, 0, PAPER), clamped(y, 0, PAPER), event.pointerType === "pen" ? event.pressure : 0.5];
}

function pointerDown(event) {
  const stylus = event.pointerType === "pen";
  const erase = eraserChosen() || (event.buttons & ERASER_END) !== 0;
  if (event.pointerType === "mouse" && event.button !== 0) return;
  liftCursor();
  if (gesture && !stylus) return; // A palm or a second finger. A stylus takes over from a palm.
  abandon();
  cursor.shown = false;
  canvas.setPointerCapture(event.pointerId);
  begin(pointOf(event), { owner: event.pointerId, erase, pressed: stylus });
}

function pointerMove(event) {
  if (gesture?.owner !== event.pointerId) return;
  const all = event.getCoalescedEvents?.() ?? [];
  extend((all.length ? all : [event]).map(pointOf));
}

function pointerUp(event) {
  if (gesture?.owner === event.pointerId) finish();
}

// The system took the touch for a palm, or for a gesture of its own. A line of many points was meant: undo removes it.
function pointerCancel(event) {
  if (gesture?.owner !== event.pointerId) return;
  if (gesture.stroke?.points.length > PALM) return finish();
  abandon();
  heard.changed();
}

// Keys.

function paperKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const arrow = ARROWS[event.key];
  if (arrow) moveCursor(arrow, event.shiftKey ? STEP.large : STEP.small);
  else if (event.key === " " || event.key === "Enter") toggleCursor();
  else if (event.key === "Escape") liftCursor();
  else if (event.key === "Delete") clear();
  else return;
  event.preventDefault();
}

function moveCursor([dx, dy], step) {
  cursor.x = clamped(cursor.x + dx * step, 0, PAPER);
  cursor.y = clamped(cursor.y + dy * step, 0, PAPER);
  cursor.shown = true;
  if (gesture?.owner === "keys") extend([[cursor.x, cursor.y, 0.5]]);
  requestDraw();
}

function toggleCursor() {
  if (gesture) return liftCursor();
  cursor.shown = true;
  begin([cursor.x, cursor.y, 0.5], { owner: "keys", erase: eraserChosen(), pressed: true });
  announce("Pen down");
}

function liftCursor() {
  if (gesture?.owner !== "keys") return;
  finish();
  requestDraw();
  announce("Pen up");
}

function showCursor() {
  cursor.shown = canvas.matches(":focus-visible");
  requestDraw();
}

function hideCursor() {
  liftCursor();
  cursor.shown = false;
  requestDraw();
}

function undoKey(event) {
  const control = event.ctrlKey || event.metaKey;
  // Ctrl+Z has the key "я" on a Cyrillic layout, and the code "KeyY" on a German one.
  const key = (/^[a-z]$/i.test(event.key) ? event.key : event.code.replace("Key", "")).toLowerCase();
  if (!control || event.altKey || (key !== "z" && key !== "y")) return;
  if (event.target.closest("dialog, select, input:not([type=range])")) return; // It has an undo of its own.
  event.preventDefault();
  goTo(past.at + (key === "y" || event.shiftKey ? 1 : -1));
}

// Tools.

const eraserChosen = () => $("eraser").getAttribute("aria-pressed") === "true";

function chooseTool(chosen) {
  for (const tool of [$("pen"), $("eraser")]) tool.setAttribute("aria-pressed", tool === chosen);
}

function refreshTools() {
  $("undo").disabled = blocked || past.at === 0;
  $("redo").disabled = blocked || past.at === past.states.length - 1;
  $("clear").disabled = blocked || now().length === 0;
}

function listen() {
  on(canvas, {
    pointerdown: pointerDown, pointermove: pointerMove, pointerup: pointerUp, pointercancel: pointerCancel,
    keydown: paperKey, focus: showCursor, blur: hideCursor,
  });
  on(document, { keydown: undoKey });
  on(window, { resize: requestDraw }); // A zoom may leave the size of the paper as it is.
  new ResizeObserver(requestDraw).observe(canvas);
  on($("pen"), { click: () => chooseTool($("pen")) });
  on($("eraser"), { click: () => chooseTool($("eraser")) });
  on($("width"), { change: () => remember("width", $("width").value) });
  on($("undo"), { click: () => goTo(past.at - 1) });
  on($("redo"), { click: () => goTo(past.at + 1) });
  on($("clear"), { click: clear });
}
