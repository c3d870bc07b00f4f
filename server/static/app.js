// The search page. State lives in the address: what is typed, chosen and shared is one and the same URL.
// Everything that comes from a collection enters the page as text, never as markup.

const EXAMPLES = [
  ["sw", "Je, naweza kuangalia jua likifunikwa na mwezi kwa miwani ya kawaida?"],
  ["hi", "ग्रीन टी कड़वी क्यों हो जाती है, क्या वह अलग पेड़ से आती है?"],
  ["zh", "月亮为什么有时圆有时弯？"],
  ["ar", "أنا في البيت والأرض تهتز، أين أختبئ؟"],
  ["th", "ล้ำหน้าในฟุตบอลคืออะไร ดูยังไง"],
  ["de", "Weshalb werden Riffe plötzlich weiß, und ist das endgültig?"],
];
const SHOWN = 700; // characters of a passage before the rest folds away
const PAGE = 10;
const MOST = 1000;
const MODES = {
  hybrid: ["Hybrid", "All views together"],
  cascade: ["Cascade", "The fast views propose, the precise one decides"],
  dense: ["Dense", "One vector a passage: what it is about"],
  late: ["Late", "One vector a word: what it says in detail"],
  bm25: ["BM25", "The same words"],
};

const $ = (id) => document.getElementById(id);
const names = new Intl.DisplayNames(["en"], { type: "language", fallback: "code" });
const number = new Intl.NumberFormat("en");
let info = { name: "", documents: 0, languages: {}, modes: [] };
let running = new AbortController();

/** Make an element: properties, then children that are elements or text. */
function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function nameOf(code) {
  try {
    return code ? names.of(code) : "Unknown language";
  } catch {
    return code;
  }
}

async function ask(path, signal) {
  const response = await fetch(path, { signal, headers: { Accept: "application/json" } });
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.detail);
  return answer;
}

/** The parameters of a search as the form has them; defaults stay out of the address. */
function fromForm() {
  const asked = new URLSearchParams();
  const using = document.querySelector("#modes :checked")?.value;
  const languages = [...document.querySelectorAll("#languages :checked")].map((box) => box.value);
  if ($("q").value.trim()) asked.set("q", $("q").value.trim());
  if (using && using !== info.modes[0]) asked.set("using", using);
  if (languages.length) asked.set("languages", languages.join(","));
  if (!$("neutral").checked) asked.set("neutral", "false");
  return asked;
}

function toForm(asked) {
  $("q").value = asked.get("q") ?? "";
  $("neutral").checked = asked.get("neutral") !== "false";
  const using = asked.get("using") ?? info.modes[0];
  const languages = (asked.get("languages") ?? "").split(",");
  for (const radio of document.querySelectorAll("#modes input")) radio.checked = radio.value === using;
  for (const box of document.querySelectorAll("#languages input")) box.checked = languages.includes(box.value);
  labelFilter();
}

function labelFilter() {
  const chosen = [...document.querySelectorAll("#languages :checked")].map((box) => nameOf(box.value));
  const few = chosen.length <= 2 ? chosen.join(", ") : `${chosen.length} languages`;
  $("filter-label").textContent = chosen.length ? few : "All languages";
}

/** Search for what the form says and write it into the address. */
function submit(more = {}) {
  const asked = fromForm();
  for (const [name, value] of Object.entries(more)) asked.set(name, value);
  const address = asked.size ? `?${asked}` : location.pathname;
  if (address !== location.search) history.pushState(null, "", address);
  return show(asked);
}

/** Show the answer to what is asked: empty, loading, results, none, or an error. */
async function show(asked) {
  running.abort();
  const mine = (running = new AbortController());
  const question = asked.get("q");
  const title = $("title").textContent;
  document.title = question ? `${question} – ${title}` : title;
  $("error").hidden = true;
  $("examples").hidden = Boolean(question) || info.name !== "demo";
  if (!question) return clear("");
  $("hits").setAttribute("aria-busy", "true");
  $("status").textContent = "Searching…";
  try {
    showAnswer(await ask(`search?${asked}`, mine.signal), Number(asked.get("k") ?? PAGE));
  } catch (error) {
    if (mine.signal.aborted) return;
    clear("");
    $("error").textContent = error.message;
    $("error").hidden = false;
  } finally {
    if (running === mine) $("hits").setAttribute("aria-busy", "false");
  }
}

function clear(status) {
  $("status").textContent = status;
  $("hits").replaceChildren();
  $("more").hidden = true;
}

function showAnswer(answer, k) {
  const count = answer.hits.length;
  const found = count === 0 ? "Nothing found" : count === 1 ? "One result" : `${count} results`;
  const language = answer.language ? ` for a question in ${nameOf(answer.language)}` : "";
  clear(`${found}${language}, ${number.format(Math.max(1, Math.round(answer.took_ms)))} ms.`);
  $("hits").append(...answer.hits.map(showHit));
  $("more").hidden = count < k || k >= MOST;
}

function showHit(hit) {
  const badge = make("span", { className: "badge", title: hit.lang }, nameOf(hit.lang));
  const score = make("span", { className: "score", title: "score" }, hit.score.toPrecision(3));
  const item = make("li", { tabIndex: -1 }, make("div", { className: "facts" }, `${hit.rank}`, badge, score));
  item.dataset.id = hit.id;
  const words = { lang: hit.lang, dir: "auto" };
  if (hit.title) item.append(make("h3", words, hit.title));
  item.append(...passage(hit.text, words));
  return item;
}

/** A passage; a long one ends in a button that unfolds it. */
function passage(text, words) {
  const shown = text.length > SHOWN * 1.2 ? `${text.slice(0, SHOWN).toWellFormed?.() ?? text.slice(0, SHOWN)}…` : text;
  const paragraph = make("p", { ...words, className: "passage" }, shown);
  if (shown === text) return [paragraph];
  const button = make("button", { type: "button", className: "whole" }, `Show all ${number.format(text.length)} characters`);
  button.addEventListener("click", () => {
    paragraph.textContent = text;
    button.remove();
  });
  return [paragraph, button];
}

function showInfo() {
  const modes = info.modes.map((mode) => {
    const [name, title] = MODES[mode] ?? [mode, ""];
    return make("label", { title }, make("input", { type: "radio", name: "using", value: mode }), name);
  });
  $("modes").append(...modes);
  const languages = Object.entries(info.languages).sort((a, b) => b[1] - a[1] || nameOf(a[0]).localeCompare(nameOf(b[0])));
  const boxes = languages
    .filter(([code]) => code !== "und")
    .map(([code, count]) =>
      make("label", {}, make("input", { type: "checkbox", value: code }), nameOf(code), make("span", {}, number.format(count))),
    );
  $("languages").append(...boxes);
  $("filter").hidden = boxes.length < 2;
  $("about").textContent = `${number.format(info.documents)} passages in ${number.format(boxes.length)} languages.`;
  const examples = EXAMPLES.map(([lang, question]) => {
    const words = make("span", { className: "words", lang, dir: "auto" }, question);
    const badge = make("span", { className: "badge" }, nameOf(lang));
    return make("li", {}, make("a", { href: `?${new URLSearchParams({ q: question })}` }, badge, words));
  });
  $("examples").querySelector("ul").append(...examples);
}

/** `/` comes to the input, arrows move through the results, arrow up from the first one comes back. */
function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  const typing = event.target.matches("input:not([type=checkbox], [type=radio]), textarea");
  const hits = [...$("hits").children];
  const at = hits.indexOf(document.activeElement.closest?.("#hits li"));
  if (event.key === "/" && !typing) $("q").select();
  else if (event.key === "ArrowDown" && (at >= 0 || event.target === $("q"))) hits[Math.min(at + 1, hits.length - 1)]?.focus();
  else if (event.key === "ArrowUp" && at >= 0) (hits[at - 1] ?? $("q")).focus();
  else if (event.key === "Escape" && $("filter").open) $("filter").open = false;
  else return;
  event.preventDefault();
}

function listen() {
  $("form").addEventListener("submit", (event) => {
    event.preventDefault();
    $("filter").open = false;
    submit();
  });
  $("form").addEventListener("change", (event) => {
    labelFilter();
    if (event.target !== $("q")) submit();
  });
  $("more").addEventListener("click", async () => {
    const before = $("hits").children.length;
    await submit({ k: Math.min(before + PAGE, MOST) });
    $("hits").children[before]?.focus();
  });
  document.addEventListener("keydown", onKey);
  document.addEventListener("click", (event) => {
    if (!$("filter").contains(event.target)) $("filter").open = false;
  });
  addEventListener("popstate", fromAddress);
}

function fromAddress() {
  const asked = new URLSearchParams(location.search);
  toForm(asked);
  return show(asked);
}

async function start() {
  try {
    info = await ask("info");
    showInfo();
  } catch (error) {
    $("error").textContent = error.message;
    $("error").hidden = false;
  }
  listen();
  await fromAddress();
}

start();
