// Renders openapi.json as a page: operations, then the shapes they speak of.

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

const last = (path) => path.split("/").at(-1);

/** A schema in a few words; a named one links to its shape below. */
function shape(schema) {
  if (schema.$ref) return [make("a", { href: `#${last(schema.$ref)}` }, last(schema.$ref))];
  if (schema.anyOf) return schema.anyOf.flatMap((one, i) => [i ? " or " : "", ...shape(one)]);
  if (schema.enum) return [schema.enum.join(" | ")];
  if (schema.type === "array") return ["list of ", ...shape(schema.items)];
  if (schema.type === "object" && schema.properties) {
    return ["{", ...Object.entries(schema.properties).flatMap(([name, one], i) => [i ? ", " : "", name, ": ", ...shape(one)]), "}"];
  }
  return [schema.type ?? "anything"];
}

function limits(schema) {
  const told = [];
  if ("minimum" in schema && "maximum" in schema) told.push(`${schema.minimum} to ${schema.maximum}`);
  if ("default" in schema) told.push(`default ${schema.default}`);
  if (schema.maxLength) told.push(`at most ${schema.maxLength} characters`);
  if (schema.maxItems) told.push(`at most ${schema.maxItems}`);
  return told.length ? ` (${told.join(", ")})` : "";
}

const row = (name, schema, note, required) => [
  make("dt", {}, name),
  make("dd", {}, ...shape(schema), limits(schema), required ? ", required" : "", note ? `. ${note}` : ""),
];

function list(heading, rows) {
  return rows.length ? [make("h3", {}, heading), make("dl", {}, ...rows.flat())] : [];
}

function operation(path, method, described, shared) {
  const parameters = [...shared, ...(described.parameters ?? [])];
  const bodies = Object.entries(described.requestBody?.content ?? {});
  const answers = Object.entries(described.responses);
  return make(
    "section",
    { id: described.operationId },
    make("h2", {}, make("b", {}, method.toUpperCase()), path),
    make("p", {}, described.summary),
    ...list("Parameters", parameters.map((p) => row(p.name, p.schema, p.description, p.required))),
    ...list("Body", bodies.map(([type, { schema }]) => row(type, schema, schema.description))),
    ...list("Answers", answers.map(([status, answer]) => answerRow(status, answer))),
  );
}

function answerRow(status, answer) {
  const [type, content] = Object.entries(answer.content ?? {})[0] ?? [];
  const what = type === "application/json" ? [" ", ...shape(content.schema)] : [];
  return [make("dt", {}, status), make("dd", {}, answer.description, ...what)];
}

function component([name, schema]) {
  const rows = Object.entries(schema.properties).map(([key, one]) =>
    row(key, one, one.description, schema.required?.includes(key)),
  );
  return make("section", { id: name }, make("h2", {}, name), make("p", {}, schema.description ?? ""), make("dl", {}, ...rows.flat()));
}

async function start() {
  const described = await (await fetch("openapi.json")).json();
  const operations = Object.entries(described.paths).flatMap(([path, { parameters = [], ...methods }]) =>
    Object.entries(methods).map(([method, one]) => operation(path, method, one, parameters)),
  );
  const example = `curl '${new URL("search?q=bahari&k=3", location)}'`;
  document.getElementById("docs").append(
    make("p", {}, described.info.description),
    make("pre", {}, example),
    ...operations,
    ...Object.entries(described.components.schemas).map(component),
  );
}

start();
