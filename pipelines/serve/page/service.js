// Requests to the service. URLs are relative, so that it may stand below a prefix.

import { clamped, counted, remembered, say, sentence } from "./basics.js";

const TRIES = 6; // Of a request that a busy service declines.

// An error that people can read. status 0: no answer.
export class Problem extends Error {
  constructor(status, detail, field = "", wait = 2) {
    super(sentence(detail));
    Object.assign(this, { status, field, wait });
  }
}

async function problemOf(answer) {
  const said = await answer.json().catch(() => ({}));
  const detail = said.detail || said.title || `The service answered with the error ${answer.status}`;
  return new Problem(answer.status, detail, said.field, clamped(Number(answer.headers.get("Retry-After")) || 2, 1, 60));
}

async function call(path, { body, signal } = {}) {
  const headers = {};
  const token = remembered("token");
  if (token) headers.Authorization = `Bearer ${token}`;
  if (typeof body === "string") headers["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(new URL(path, document.baseURI), { method: body ? "POST" : "GET", body, headers, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "The service cannot be reached. Check the connection");
  }
  if (!answer.ok) throw await problemOf(answer);
  return answer;
}

function pause(seconds, signal) {
  return new Promise((done, stop) => {
    const timer = setTimeout(done, 1000 * seconds);
    signal?.addEventListener("abort", () => (clearTimeout(timer), stop(signal.reason)), { once: true });
  });
}

// The answer to a request. Asks again while the service is busy, and says so.
export async function json(path, options = {}, { tries = TRIES, retried = [503], tell = say } = {}) {
  for (let left = tries; ; left--) {
    try {
      return await (await call(path, options)).json();
    } catch (error) {
      if (!retried.includes(error.status) || left <= 1) throw error;
      tell(`${error.message} The page asks again in ${counted(error.wait, "second")}.`);
      await pause(error.wait, options.signal);
    }
  }
}

// The body of a request with a drawing as strokes, a picture or the id of a photo. Empty fields are left out.
export function bodyOf(query, fields) {
  const given = Object.fromEntries(Object.entries(fields).filter(([, value]) => value));
  if (!query.drawing) return JSON.stringify({ ...query, ...given });
  const form = new FormData();
  form.set("drawing", query.drawing, query.name);
  for (const [name, value] of Object.entries(given)) form.set(name, value);
  return form;
}

export const fetchBlob = async (path) => (await call(path)).blob();

// An <img> sends no token: with one, the bytes are fetched. They may arrive after those of a picture that is wanted
// later: image.wanted says which one it is.
export async function showPicture(image, path) {
  image.wanted = path;
  if (!remembered("token")) {
    image.src = new URL(path, document.baseURI).href;
    return;
  }
  const blob = await fetchBlob(path).catch(() => null);
  if (blob && image.wanted === path) showBlob(image, blob);
}

export function showBlob(image, blob) {
  const url = URL.createObjectURL(blob);
  image.wanted = null;
  image.onload = image.onerror = () => URL.revokeObjectURL(url);
  image.src = url;
}
