// The page: a drawing or a picture is the query, and photos are the answer.

import { $, announce, clamped, counted, element, fileName, isolated, on, remember, remembered, say, sentence }
  from "./basics.js";
import { blockPaper, isDrawing, isEmpty, openPaper, strokesToSend } from "./drawing.js";
import { bodyOf, fetchBlob, json, Problem, showBlob, showPicture } from "./service.js";

const AFTER_STROKE = 250; // ms from the end of a line to its search.
const WHILE_DRAWING = 700; // ms between searches while a line is drawn.
const QUIET = 1000; // ms without a new answer before a screen reader hears the number of photos.
const SHOWN = 48; // Photos of a page.
const SPARE = 600; // px above and below the window in which tiles exist.
const LONGEST_SIDE = 2048; // px of a picture that is sent.
const OTHER_FIELDS = 10_000; // Bytes of a form beside its picture.
const BYTES_OF_POINT = 16; // At most, as JSON: two numbers such as 999.9, and commas.
const UNREACHED = [0, 502, 503]; // Statuses after which the same request may be answered. A search of 504 took too long.
const DECODED = /^image\/(png|jpeg|gif|webp|bmp)$/; // What every browser can decode.
const KEPT = 60_000; // ms that a photo which was opened can be loaded.
const DAY = 24 * 3600 * 1000; // ms

const state = {
  about: null, // The answer of v1/about.
  picture: null, // A File or Blob that is the query, instead of the drawing.
  clean: "auto", // What the service does to the picture: a photo of paper is cleaned.
  like: null, // A photo that is the query, instead of the drawing.
  request: null, // The search that the results answer.
  version: "", // Of the index and the model that answered it.
  unanswered: false, // The newest search has no answer: the results are of an earlier one.
  results: [],
  more: false, // The service has another page.
  nothing: false, // Nothing similar was found,
  anyway: false, // and the nearest photos are shown all the same.
  clauses: [], // Functions, one for each filter field: its SQL, or "".
};

// The search. The newest request aborts the older one: no answer comes out of order.

let timer = 0;
let running = null; // The AbortController of the newest request.

const queryIsNoDrawing = () => state.picture !== null || state.like !== null;
const isBlank = () => !queryIsNoDrawing() && isEmpty();

function query() {
  if (state.like) return { like: state.like.id };
  if (state.picture) return { drawing: state.picture, name: state.picture.name || "picture" };
  const { points, body_bytes: bytes } = state.about.limits;
  return { strokes: strokesToSend(Math.floor(Math.min(points, bytes / BYTES_OF_POINT))) };
}

function schedule(delay) {
  clearTimeout(timer);
  timer = setTimeout(due, delay);
}

// While a line is drawn, a slow answer is waited for: to abort each would show none.
function due() {
  timer = 0;
  if (isDrawing() && running) schedule(WHILE_DRAWING);
  else search();
}

function penMoved() {
  if (!timer) schedule(WHILE_DRAWING);
}

function stopAsking() {
  clearTimeout(timer);
  timer = 0;
  running?.abort();
  running = null;
  $("answer").setAttribute("aria-busy", "false");
}

function search() {
  stopAsking();
  if (!state.about) return;
  if (isBlank()) showNothing();
  else ask({ query: query(), clean: state.picture && state.clean, where: clausesInUse().join(" AND "),
    mode: $("mode").value, page: 1 });
}

function submit() {
  if (isBlank()) say("The paper is empty. Draw something first, or use a picture.");
  else search();
}

// A newer search comes first: the photos shown are not its photos.
function nextPage() {
  if (timer || state.unanswered) search();
  else if (!running) ask({ ...state.request, page: state.request.page + 1 });
}

function online() {
  if (state.unanswered) search();
}

// note: told with the photos.
async function ask(request, note = "") {
  const control = (running = new AbortController());
  const { query, ...fields } = request;
  const first = request.page === 1;
  const tell = (text) => (say(text), first && showEarlier());
  $("answer").setAttribute("aria-busy", "true");
  try {
    const body = bodyOf(query, { ...fields, top: Math.min(SHOWN, state.about.limits.top) });
    const answer = await json("v1/search", { body, signal: control.signal }, { retried: UNREACHED, tell });
    if (control.signal.aborted) return;
    if (!first && versionOf(answer) !== state.version) return startAgain(request);
    show(request, answer, note);
  } catch (error) {
    if (control.signal.aborted) return;
    fail(error);
    if (first) showEarlier();
  }
  if (running === control) stopRunning();
}

function stopRunning() {
  running = null;
  $("answer").setAttribute("aria-busy", "false");
}

// Two answers of one version rank the same photos by the same model. Their pages fit together; others may repeat photos
// and leave some out.
const versionOf = ({ index, model }) => JSON.stringify([index, model]);

function startAgain(request) {
  return ask({ ...request, page: 1 }, "The photos of this service have changed. The search began again.");
}

function show(request, answer, note) {
  const { photos, more } = answer;
  const first = request.page === 1;
  const version = versionOf(answer);
  const results = first ? photos : [...state.results, ...photos];
  Object.assign(state, { request, version, more, results, unanswered: false });
  say(note);
  $("filter-message").textContent = "";
  if (answer.cleaned && first) showCleaned(answer.cleaned);
  if (first) state.nothing = answer.similar === false;
  hideNearest();
  if (first) resetGrid();
  layGrid();
  $("empty").hidden = true;
  const found = `${counted(state.results.length, "photo")} found`;
  if (!state.nothing) $("count").textContent = more ? `${found}, and there are more` : found;
  if (!isDrawing()) announce(state.nothing ? "Nothing similar found" : found, QUIET);
  const missing = "like" in request.query ? "other photo" : "photo"; // The photo itself is not among those like it.
  if (!results.length) say(request.where ? `No ${missing} passes the filters.` : `The index holds no ${missing}.`);
  if (version !== versionOf(state.about)) refresh();
}

// The photos of an earlier search stay while the newest has no answer. The heading says whose they are.
function showEarlier() {
  state.unanswered = true;
  $("nothing").hidden = true;
  $("count").textContent = state.results.length && !$("grid").hidden ? "Photos of an earlier search" : "Photos";
  announce("");
}

// Photos for which nothing similar was found are shown when they are asked for, and then until the paper is cleared.
function hideNearest() {
  const hidden = state.nothing && !state.anyway;
  if (state.nothing) $("count").textContent = hidden ? "Nothing similar found" : "Nothing similar: the nearest photos";
  $("nothing").hidden = !hidden;
  $("grid").hidden = hidden;
  $("more").hidden = hidden || !state.more;
}

function showNearest() {
  state.anyway = true;
  hideNearest();
  layGrid();
  $("count").focus();
}

// The index or the model has changed: its columns, modes and number of photos may have, too.
async function refresh() {
  state.about = await json("v1/about").catch(() => state.about);
  showAbout(state.about);
  const chosen = choices();
  showSettings(state.about);
  choose(chosen);
}

// What was chosen stays so, unless it is gone: then the photos are searched without it.
function choices() {
  const text = (field) => field.selectedOptions?.[0].text ?? field.value;
  const fields = [...settingFields()];
  const given = fields.filter((field) => field.value !== "").map((field) => [field.ariaLabel, text(field)]);
  return { given, focused: fields.find((field) => field === document.activeElement)?.ariaLabel };
}

function choose({ focused, given }) {
  const fields = new Map([...settingFields()].map((field) => [field.ariaLabel, field]));
  let lost = false;
  for (const [label, text] of given) {
    const field = fields.get(label);
    const value = field?.options ? [...field.options].find((option) => option.text === text)?.value : text;
    if (field && value !== undefined) field.value = value;
    else lost = true;
  }
  fields.get(focused)?.focus();
  showFiltersUsed();
  showModeHelp();
  if (lost && !isBlank()) search();
}

const settingFields = () => $("more-ways").querySelectorAll("input, select"); // Those of filters, and of the mode.

function showNothing() {
  if (state.request) announce("The paper is empty"); // In place of the number of photos, which may not be read yet.
  Object.assign(state, { request: null, unanswered: false, more: false, results: [], nothing: false, anyway: false });
  say("");
  hideNearest();
  resetGrid();
  layGrid();
  $("empty").hidden = false;
  $("count").textContent = "Photos";
}

function fail(error) {
  if (error.status === 401) {
    askForToken();
  } else if (error.field === "where") {
    $("filters").open = true;
    $("filter-message").textContent = error.message;
  } else if (error instanceof Problem) {
    say(error.message);
    if (error.field === "drawing" && state.picture && state.clean === "auto") offerToClean("never");
  } else {
    say("The answer of the service cannot be read.");
    console.error(error);
  }
}

// A token, where the service asks for one. It is kept until the tab is closed.

function askForToken() {
  say(remembered("token") ? "The service refused this token." : "");
  $("token-form").hidden = false;
  $("token").focus();
}

function useToken(event) {
  event.preventDefault();
  const token = $("token").value.trim();
  if (!/^[\x21-\x7e]+$/.test(token)) {
    say("A token has letters, digits and signs of ASCII only.");
    return;
  }
  remember("token", token);
  $("token").value = "";
  $("token-form").hidden = true;
  start();
}

// A picture, or a photo of the index, covers the paper while it is the query.

function cover(picture, like, ...text) {
  Object.assign(state, { picture, like, clean: "auto" });
  $("clean").hidden = true;
  $("instead-picture").removeAttribute("src");
  $("instead-text").replaceChildren(...text);
  $("instead").hidden = false;
  blockPaper(true);
  search();
}

function uncover() {
  Object.assign(state, { picture: null, like: null });
  $("instead").hidden = true;
  blockPaper(false);
  $("canvas").focus();
  search();
}

// The drawing that the service made of a photo or scan of paper.
function showCleaned({ done, png }) {
  Object.assign($("instead-picture"), { wanted: null, src: png });
  $("instead-text").replaceChildren(isolated(nameOf(state.picture)), sentence(`: ${done}`));
  offerToClean("never");
}

function offerToClean(clean) {
  Object.assign($("clean"), { value: clean, textContent: clean === "never" ? "Use it as it is" : "Clean it" });
  $("clean").hidden = false;
}

function cleanOtherwise() {
  state.clean = $("clean").value;
  showBlob($("instead-picture"), state.picture);
  $("instead-text").replaceChildren(isolated(nameOf(state.picture)));
  offerToClean(state.clean === "never" ? "auto" : "never");
  search();
}

function searchLike(photo) {
  cover(null, photo, "Photos like ", isolated(fileName(photo.id)));
  showPicture($("instead-picture"), photo.thumbnail);
}

const nameOf = (file) => file.name || "Picture";

let early = null; // A file that came before the limits of the service were known.

async function usePicture(file) {
  if (!file) return;
  if (!state.about) {
    early = file;
    say("The picture is used as soon as the service answers.");
    return;
  }
  try {
    const ready = await readyToSend(file);
    cover(ready, null, isolated(nameOf(file)));
    showBlob($("instead-picture"), ready);
  } catch (error) {
    fail(error);
  }
}

// The picture, smaller if it is large. An SVG, and a format that this browser cannot decode, are sent as they are.
async function readyToSend(file) {
  const { pixels, body_bytes: bytes } = state.about.limits;
  const room = bytes - OTHER_FIELDS;
  const name = file.name || "This";
  const svg = file.type === "image/svg+xml" || /\.svgz?$/i.test(file.name);
  const bitmap = svg ? null : await createImageBitmap(file).catch(() => null);
  if (bitmap) {
    const longest = Math.max(bitmap.width, bitmap.height);
    const fits = file.size <= room && longest <= LONGEST_SIDE && bitmap.width * bitmap.height <= pixels;
    if (fits) return file;
    const type = file.type === "image/jpeg" ? file.type : "image/png"; // A photo as PNG is several times larger.
    const blob = await shrunk(bitmap, Math.min(LONGEST_SIDE, longest, Math.floor(Math.sqrt(pixels))), room, type);
    return new File([blob], name, { type: blob.type });
  }
  if (!svg && (!file.type.startsWith("image/") || DECODED.test(file.type))) {
    throw new Problem(415, `${name} is no picture that can be read. Choose a PNG, JPEG, WebP or SVG`);
  }
  if (file.size > room) throw new Problem(413, `${name} is too large: ${(room / 1e6).toFixed(1)} MB can be sent`);
  return file;
}

async function shrunk(bitmap, side, room, type) {
  const scale = side / Math.max(bitmap.width, bitmap.height);
  const [width, height] = [bitmap.width, bitmap.height].map((length) => Math.max(1, Math.round(length * scale)));
  const drawn = element("canvas", { width, height });
  const brush = drawn.getContext("2d");
  brush.imageSmoothingQuality = "high";
  brush.drawImage(bitmap, 0, 0, width, height);
  const blob = await new Promise((done) => drawn.toBlob(done, type, 0.9));
  return blob.size <= room || side < 64 ? blob : shrunk(bitmap, Math.floor(side / 2), room, type);
}

function pasted(event) {
  const [file] = event.clipboardData.files;
  if (!file) return;
  event.preventDefault();
  usePicture(file);
}

function dropped(event) {
  event.preventDefault();
  draggedAway();
  const [file] = event.dataTransfer.files;
  if (file) usePicture(file);
  else say("Drop a picture file. A link cannot be used.");
}

function draggedOver(event) {
  event.preventDefault();
  $("paper").classList.add("over");
}

function draggedAway() {
  $("paper").classList.remove("over");
}

// Filters, from the columns of the index. Names are in backticks: a name may be a word of SQL.

const FILTERS = { text: filterText, number: filterNumber, boolean: filterBoolean, date: filterDay, time: filterDay };

const quoted = (text) => `'${text.replaceAll("'", "''")}'`;
const clauseOf = (field, clause) => () => (field.value === "" ? "" : clause(field.value));
const clausesInUse = () => state.clauses.map((clause) => clause()).filter(Boolean);

function filterText({ name, values }, sql) {
  if (!values) {
    const field = input(name, "has the text", { type: "search", placeholder: "has the text" });
    return [[field, (text) => `contains(lower(${sql}), lower(${quoted(text)}))`]];
  }
  const options = values.map((value, i) => [value || "(empty)", String(i)]);
  return [[choice(name, options), (i) => `${sql} = ${quoted(values[i])}`]];
}

// A column of integers is not compared with 1.5 unless it is cast.
function filterNumber({ name, low, high }, sql) {
  const least = input(name, "at least", { type: "number", step: "any", placeholder: `from ${low ?? ""}` });
  const most = input(name, "at most", { type: "number", step: "any", placeholder: `to ${high ?? ""}` });
  return [
    [least, (value) => `CAST(${sql} AS DOUBLE) >= ${Number(value)}`],
    [most, (value) => `CAST(${sql} AS DOUBLE) <= ${Number(value)}`],
  ];
}

function filterBoolean({ name }, sql) {
  return [[choice(name, [["Yes", "true"], ["No", "false"]]), (value) => `${sql} = ${value}`]];
}

// All times of the last day pass.
function filterDay({ name, low, high }, sql) {
  const ends = { type: "date", min: low?.slice(0, 10) ?? "", max: high?.slice(0, 10) ?? "" };
  const after = (day) => new Date(Date.parse(day) + DAY).toISOString().slice(0, 10);
  return [
    [input(name, "from", ends), (day) => `${sql} >= DATE '${day}'`],
    [input(name, "to", ends), (day) => `${sql} < DATE '${after(day)}'`],
  ];
}

const input = (name, label, properties) => element("input", { ariaLabel: `${name}, ${label}`, ...properties });

function choice(name, options) {
  const all = [["Any", ""], ...options].map(([text, value]) => new Option(text, value));
  return element("select", { ariaLabel: name }, ...all);
}

function addFilter(column) {
  const fields = FILTERS[column.type]?.(column, `\`${column.name}\``) ?? [];
  if (!fields.length) return;
  const row = element("div", { className: "row" }, ...fields.map(([field]) => field));
  $("filter-fields").append(element("fieldset", {}, element("legend", {}, isolated(column.name)), row));
  state.clauses.push(...fields.map(([field, clause]) => clauseOf(field, clause)));
}

function showFiltersUsed() {
  const used = clausesInUse().length;
  $("filters-used").textContent = used ? ` (${used})` : "";
  $("filters-clear").disabled = !used;
}

function filtersChanged() {
  showFiltersUsed();
  $("filter-message").textContent = "";
  if (!isBlank()) schedule(AFTER_STROKE);
}

function clearFilters() {
  for (const field of $("filter-fields").querySelectorAll("input, select")) field.value = "";
  filtersChanged();
}

// The grid. Only tiles near the window exist, so that thousands of results cost no more than dozens. Each tile has its
// row and column, and the grid has the height of all rows.

const grid = $("grid");
const tiles = new Map(); // Index of a result -> its tile.

function resetGrid() {
  if (grid.contains(document.activeElement)) $("count").focus();
  grid.replaceChildren();
  tiles.clear();
  if (grid.getBoundingClientRect().top < 0 && isBesidePaper()) scrollTo(0, 0);
}

function isBesidePaper() {
  return $("answer").getBoundingClientRect().left >= $("paper").getBoundingClientRect().right;
}

function measureGrid() {
  const style = getComputedStyle(grid);
  const tracks = style.gridTemplateColumns.split(" ");
  grid.style.setProperty("--side", tracks[0]);
  const gap = parseFloat(style.rowGap);
  return { columns: tracks.length, row: parseFloat(style.gridAutoRows) + gap, gap };
}

// wanted: index of a result that needs a tile, wherever it is.
function layGrid(wanted = null) {
  const { columns, row, gap } = measureGrid();
  const rows = Math.ceil(state.results.length / columns);
  const top = grid.getBoundingClientRect().top;
  const first = clamped(Math.floor((-SPARE - top) / row), 0, rows) * columns;
  const last = Math.min(Math.ceil((innerHeight + SPARE - top) / row) * columns, state.results.length);
  grid.style.height = rows ? `${rows * row - gap}px` : "";
  removeTiles((i) => i < first || i >= last);
  for (let i = first; i < last; i++) addTile(i);
  if (wanted !== null) addTile(wanted);
  for (const [i, tile] of tiles) {
    tile.style.gridRow = Math.floor(i / columns) + 1;
    tile.style.gridColumn = (i % columns) + 1;
  }
}

// The tile with the focus stays: without it, Tab would begin at the top of the page.
function removeTiles(isFar) {
  for (const [i, tile] of tiles) {
    if (!isFar(i) || tile.contains(document.activeElement)) continue;
    tile.remove();
    tiles.delete(i);
  }
}

// Tiles stand in the document in the order of the results: Tab follows it.
function addTile(i) {
  if (tiles.has(i)) return;
  const later = Math.min(...[...tiles.keys()].filter((j) => j > i));
  const tile = makeTile(i);
  grid.insertBefore(tile, tiles.get(later) ?? null);
  tiles.set(i, tile);
}

function makeTile(i) {
  const photo = state.results[i];
  const name = fileName(photo.id);
  const image = element("img", { alt: name });
  const title = element("span", { ariaHidden: "true" }, isolated(name)); // A screen reader reads the picture's name.
  const small = element("span", { className: "small" }, ...scoreAndRepeats(photo));
  const button = element("button", { type: "button", className: "tile", title: photo.id }, image, title, small);
  if (photo.metadata?.zero_shot === true) {
    button.append(element("span", { className: "badge", textContent: "never trained on" }));
  }
  on(button, { click: () => openPhoto(photo) });
  showPicture(image, photo.thumbnail);
  const total = state.more ? -1 : state.results.length; // -1: not known yet.
  return element("div", { role: "listitem", ariaPosInSet: String(i + 1), ariaSetSize: String(total) }, button);
}

const percent = (share) => `${Math.round(100 * share)} %`;

function scoreAndRepeats({ score, confidence, repeats }) {
  const sure = confidence !== null && confidence !== undefined;
  const parts = [
    element("span", { className: "unseen", textContent: sure ? "confidence " : "score " }),
    sure ? percent(confidence) : score.toFixed(3),
  ];
  if (repeats?.length) parts.push(" · also as ", isolated(fileName(repeats[0])));
  if (repeats?.length > 1) parts.push(` and ${repeats.length - 1} more`);
  return parts;
}

function gridKey(event) {
  const at = [...tiles].find(([, tile]) => tile.contains(event.target))?.[0];
  const { columns } = measureGrid();
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, Home: -at, End: Infinity };
  if (at === undefined || !(event.key in steps) || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  const to = clamped(at + steps[event.key], 0, state.results.length - 1);
  layGrid(to);
  tiles.get(to).firstChild.focus();
}

// The dialog of a photo.

let opened = null; // Its photo.
let foundBy = null; // The search that found it. Another may be answered behind the dialog.
let explaining = null; // The AbortController of its explanation.

function openPhoto(photo) {
  opened = photo;
  foundBy = state.request;
  const { id, score, confidence, repeats, metadata } = photo;
  const also = repeats?.length ? [["also as", repeats.join(", ")]] : [];
  const sure = typeof confidence === "number" ? [["confidence", percent(confidence)]] : [];
  const rows = [["id", id], ...sure, ["score", score.toFixed(4)], ...also, ...Object.entries(metadata ?? {})];
  $("dialog-name").replaceChildren(isolated(fileName(id)));
  $("dialog-rows").replaceChildren(...rows.map(tableRow));
  $("dialog-picture").alt = fileName(id);
  $("dialog-picture").removeAttribute("src");
  showPicture($("dialog-picture"), photo.thumbnail);
  $("explain").hidden = !state.about.explains || "like" in foundBy.query;
  $("explain").disabled = false;
  $("explanation").replaceChildren();
  $("original").hidden = !photo.original;
  if (photo.original) $("original").href = photo.original;
  $("dialog").showModal();
}

// A link sends no token: with one, the bytes are fetched.
async function openOriginal(event) {
  if (!remembered("token")) return;
  event.preventDefault();
  try {
    const href = URL.createObjectURL(await fetchBlob(opened.original));
    element("a", { href, target: "_blank", rel: "noopener" }).click();
    setTimeout(() => URL.revokeObjectURL(href), KEPT);
  } catch (error) {
    $("explanation").replaceChildren(element("p", { textContent: error.message }));
  }
}

function tableRow([name, value]) {
  const head = element("th", { scope: "row" }, isolated(name));
  return element("tr", {}, head, element("td", {}, isolated(shownValue(value))));
}

function shownValue(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value === "boolean") return value ? "yes" : "no";
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

async function explain() {
  const control = (explaining = new AbortController());
  const { query, mode, clean } = foundBy;
  const tell = (text) => $("explanation").replaceChildren(element("p", { textContent: text }));
  $("explain").disabled = true;
  tell("The explanation is being made.");
  try {
    const body = bodyOf(query, { id: opened.id, mode, clean });
    const answer = await json("v1/explain", { body, signal: control.signal }, { tell });
    if (!control.signal.aborted) $("explanation").replaceChildren(...explanation(answer));
  } catch (error) {
    if (control.signal.aborted) return;
    tell(error instanceof Problem ? error.message : "The explanation cannot be read.");
  }
  $("explain").disabled = false;
}

function explanation({ mode, scores, notes, detail, pictures }) {
  const parts = Object.entries(scores ?? {}).map(([name, score]) => `${name} ${score.toFixed(4)}`);
  const scored = sentence(`Scored by ${mode}: ${parts.join(", ")}`);
  const texts = [scored, detail, ...(notes ?? [])].filter(Boolean);
  return [...texts.map((text) => element("p", { textContent: text })), ...pictures.map(figure)];
}

function figure({ title, text, png }) {
  const head = element("h3", { textContent: title });
  const caption = element("figcaption", { textContent: text });
  return element("figure", {}, head, element("img", { src: png, alt: title }), caption);
}

function closePhoto() {
  $("dialog").close();
}

function moreLikeThis() {
  closePhoto();
  searchLike(opened);
}

// The start.

async function start() {
  try {
    state.about = await json("v1/about", {}, { tries: Infinity, retried: [...UNREACHED, 504] });
  } catch (error) {
    fail(error);
    return;
  }
  say("");
  showAbout(state.about);
  showSettings(state.about);
  search();
  usePicture(early);
  early = null;
}

function showAbout({ photos, model, index, credit }) {
  const network = `${model.name} (${model.method}, checkpoint ${model.checkpoint})`;
  $("credit").textContent = credit ?? "";
  $("about").textContent = [counted(photos, "photo"), `index version ${index.version}`, network].join(" · ");
}

function showSettings({ columns, modes }) {
  state.clauses = [];
  $("filter-fields").replaceChildren();
  columns.forEach(addFilter);
  $("filters").hidden = !state.clauses.length;
  $("filters-clear").disabled = true;
  $("mode").replaceChildren(...modes.map(({ name }) => new Option(name, name)));
  $("settings").hidden = false;
  showModeHelp();
}

function showModeHelp() {
  $("mode-help").textContent = state.about.modes.find(({ name }) => name === $("mode").value)?.help ?? "";
}

function modeChanged() {
  showModeHelp();
  if (!isBlank()) search();
}

function fileChosen() {
  usePicture($("file").files[0]);
  $("file").value = ""; // The same file may be chosen again.
}

function listen() {
  on(document, { paste: pasted, drop: dropped, dragover: draggedOver, dragleave: draggedAway });
  on(window, { scroll: () => layGrid(), resize: () => layGrid(), online });
  new ResizeObserver(() => layGrid()).observe($("answer"));
  on(grid, { keydown: gridKey });
  on($("search"), { click: submit });
  on($("more"), { click: nextPage });
  on($("anyway"), { click: showNearest });
  on($("upload"), { click: () => $("file").click() });
  on($("file"), { change: fileChosen });
  on($("remove"), { click: uncover });
  on($("clean"), { click: cleanOtherwise });
  on($("filter-fields"), { input: filtersChanged });
  on($("filters-clear"), { click: clearFilters });
  on($("mode"), { change: modeChanged });
  on($("token-form"), { submit: useToken });
  on($("dialog"), { close: () => explaining?.abort() });
  on($("close"), { click: closePhoto });
  on($("like"), { click: moreLikeThis });
  on($("explain"), { click: explain });
  on($("original"), { click: openOriginal });
}

listen();
openPaper({ changed: () => schedule(AFTER_STROKE), moved: penMoved });
start();
