
"use strict";
// Reads openapi.json beside this page and shows it: operations by tag, schemas, examples, a form to try each.
const here = new URL(".", location.href);
const METHODS = ["get", "post", "put", "patch", "delete"];
const STREAM_MS = 2000;
const EXAMPLE_IDS = { userId: "user_456", sessionId: "session_123" };

function h(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child != null && child !== false));
  return element;
}

const inline = (text) => text.split("`").map((part, index) => (index % 2 ? h("code", {}, part) : part));
const breakable = (path) => path.split(/(?=\/)/).flatMap((part) => [h("wbr"), part]);

// Plain text with `code` in it, and lines that begin with "*" as a list.
function prose(text, className) {
  const box = h("div", { class: className });
  let list = null;
  for (const block of text.split(/\n\n|\n(?=\* )/)) {
    const item = block.startsWith("* ");
    const line = inline(block.replace(/^\* /, "").replace(/\s*\n\s*/g, " "));
    if (item) {
      if (!list) box.append((list = h("ul")));
      list.append(h("li", {}, line));
    } else {
      list = null;
      if (block.trim()) box.append(h("p", {}, line));
    }
  }
  return box;
}

// --- schemas -------------------------------------------------------------------------------------------

let spec = null;

function resolve(schema) {
  if (schema && schema.$ref) {
    const target = schema.$ref.slice(2).split("/").reduce((at, key) => at[key], spec);
    return { ...target, name: schema.$ref.split("/").pop() };
  }
  return schema || {};
}

function typeOf(given) {
  const schema = resolve(given);
  if (schema.anyOf) return [...new Set(schema.anyOf.map(typeOf))].join(" or ");
  if ("const" in schema) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (schema.type === "array") return `list of ${schema.items ? typeOf(schema.items) : "anything"}`;
  if (schema.type === "object" && schema.name) return schema.name;
  const low = schema.minimum ?? schema.minLength ?? schema.minItems;
  const high = schema.maximum ?? schema.maxLength ?? schema.maxItems;
  const kind = schema.type || "anything";
  if (high > Number.MAX_SAFE_INTEGER || (low == null && high == null)) return kind;
  const unit = schema.maxLength || schema.minLength ? " characters" : "";
  return `${kind}, ${low ?? 0} to ${high ?? "…"}${unit}`;
}

// The objects that a schema is made of, to be listed below it.
function insides(given, depth) {
  const schema = resolve(given);
  if (schema.type === "array") return schema.items ? insides(schema.items, depth) : [];
  if (schema.anyOf) return schema.anyOf.flatMap((each) => insides(each, depth));
  return schema.properties ? [schema] : [];
}

function fields(schema, depth) {
  const list = h("dl", { class: "fields" });
  for (const [name, member] of Object.entries(schema.properties)) {
    if (member === false) continue;
    const full = resolve(member);
    const must = (schema.required || []).includes(name);
    const text = full.description || "";
    list.append(
      h("dt", {}, h("code", {}, name), " ", h("span", { class: "type" }, typeOf(member)),
        must && h("span", { class: "must" }, "required")),
      h("dd", {}, !full.properties && text ? prose(text) : null, depth > 0 && inner(member, depth - 1)),
    );
  }
  return list;
}

function inner(member, depth) {
  return insides(member).map((schema) =>
    h("details", { class: "schema" },
      h("summary", {}, h("strong", {}, schema.name || "object"), " ",
        h("span", { class: "hint" }, inline(schema.description || ""))),
      fields(schema, depth)));
}

function showSchema(schema) {
  const parts = insides(schema);
  if (!parts.length) return h("p", { class: "hint" }, typeOf(schema));
  if (parts.length === 1) return h("div", {}, fields(parts[0], 3));
  return h("div", {}, h("h4", {}, "One of"), inner(schema, 3));
}

function exampleOf(media) {
  return Object.entries(media.examples || {}).map(([name, each]) => [name, each.value]);
}

const pretty = (value) => JSON.stringify(value, null, 2);

// --- one operation ---------------------------------------------------------------------------------------

function parameterList(parameters) {
  const list = h("dl", { class: "fields" });
  for (const parameter of parameters) {
    list.append(
      h("dt", {}, h("code", {}, parameter.name), " ",
        h("span", { class: "type" }, `${parameter.in}, ${typeOf(parameter.schema)}`),
        parameter.required && h("span", { class: "must" }, "required")),
      h("dd", {}, prose(parameter.description || resolve(parameter.schema).description || "")),
    );
  }
  return list;
}

function answers(operation) {
  return Object.entries(operation.responses).map(([status, answer]) => {
    const [[mediaType, media] = []] = Object.entries(answer.content || {});
    const kind = status < 300 ? "ok" : status < 400 ? "not" : "bad";
    const examples = media ? exampleOf(media) : [];
    if (media && media.example) examples.push(["", media.example]);
    return h("details", { class: "answer" },
      h("summary", {}, h("span", { class: `code ${kind}` }, status), answer.description),
      mediaType && h("h4", {}, mediaType),
      media && kind !== "bad" && showSchema(media.schema),
      Object.keys(answer.headers || {}).length > 1 &&
        h("p", { class: "hint" }, "Headers: ", Object.keys(answer.headers).join(", ")),
      examples.map(([name, value]) => [name && h("h4", {}, `Example: ${name}`), h("pre", {}, pretty(value))]),
    );
  });
}

function fill(path, method, operation) {
  const parameters = operation.parameters || [];
  const media = operation.requestBody && operation.requestBody.content["application/json"];
  return h("div", { class: "inside" },
    operation.description && prose(operation.description, "wide"),
    h("div", {},
      parameters.length > 0 && [h("h3", {}, "Parameters"), parameterList(parameters)],
      media && [h("h3", {}, "Body"), showSchema(media.schema)],
      h("h3", {}, "Answers"), answers(operation)),
    tryIt(path, method, operation, parameters, media),
  );
}

// --- try it ----------------------------------------------------------------------------------------------

const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

function requestOf(path, method, parameters, inputs, body) {
  let filled = path;
  const query = new URLSearchParams();
  const headers = {};
  for (const parameter of parameters) {
    const value = inputs[parameter.name].value;
    if (parameter.in === "path") filled = filled.replace(`{${parameter.name}}`, encodeURIComponent(value));
    else if (value !== "" && parameter.in === "query") query.set(parameter.name, value);
    else if (value !== "") headers[parameter.name] = value;
  }
  if (body != null) headers["Content-Type"] = "application/json";
  const url = new URL(filled.slice(1) + (query.size ? `?${query}` : ""), here);
  const curl = ["curl", method === "get" ? "" : `-X ${method.toUpperCase()}`, quoted(url.href)];
  for (const [name, value] of Object.entries(headers)) curl.push(`-H ${quoted(`${name}: ${value}`)}`);
  if (body != null) curl.push(`--data-binary ${quoted(body)}`);
  return { url, headers, curl: curl.filter(Boolean).join(" ") };
}

function tryIt(path, method, operation, parameters, media) {
  const id = operation.operationId;
  const inputs = {};
  const examples = media ? exampleOf(media) : [];
  const textarea = media && h("textarea", { rows: "9", spellcheck: "false", name: "body" });
  if (textarea) textarea.value = examples.length ? pretty(examples[0][1]) : "{}";
  const line = h("pre", { class: "curl" });
  const result = h("div", { class: "result", "aria-live": "polite" });
  const request = () => requestOf(path, method, parameters, inputs, textarea ? textarea.value : null);
  const refresh = () => (line.textContent = request().curl);
  const fieldsOf = parameters.map((parameter) => {
    const input = h("input", { name: parameter.name, required: parameter.required, autocomplete: "off" });
    input.value = parameter.in === "path" ? EXAMPLE_IDS[parameter.name] || "" : "";
    inputs[parameter.name] = input;
    return h("label", {}, h("span", {}, parameter.name, " ", h("span", { class: "hint" }, parameter.in)), input);
  });
  const choice = examples.length > 1 && h("select", {
    onchange: (event) => { textarea.value = pretty(examples[event.target.value][1]); refresh(); },
  }, examples.map(([name], index) => h("option", { value: index }, name)));
  const send = h("button", { class: "send", type: "submit" }, "Send");
  const copy = h("button", { type: "button", onclick: () => copied(line, copy) }, "Copy curl");
  const form = h("form", {
    class: "try", id: `try-${id}`, "aria-label": `Try ${operation.summary}`, oninput: refresh,
    onsubmit: async (event) => {
      event.preventDefault();
      send.disabled = true;
      await sent(request(), method, textarea, result);
      send.disabled = false;
    },
  },
    h("h3", {}, "Try it"), fieldsOf,
    choice && h("label", {}, h("span", {}, "Example"), choice),
    textarea && h("label", {}, h("span", {}, "Body ", h("span", { class: "hint" }, "application/json")), textarea),
    h("div", { class: "buttons" }, send, copy), line, result);
  refresh();
  return form;
}

async function copied(line, button) {
  try {
    await navigator.clipboard.writeText(line.textContent);
  } catch {
    const range = document.createRange(); // no clipboard on a page without https: mark the line instead
    range.selectNodeContents(line);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    document.execCommand("copy");
  }
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = "Copy curl"), 1500);
}

async function sent({ url, headers }, method, textarea, result) {
  const started = performance.now();
  let answer, text;
  try {
    answer = await fetch(url, { method: method.toUpperCase(), headers, body: textarea ? textarea.value : undefined });
    text = (answer.headers.get("content-type") || "").startsWith("text/event-stream")
      ? await beginning(answer) : await answer.text();
  } catch (error) {
    result.replaceChildren(h("p", { class: "bad", role: "alert" }, `The request did not get through: ${error.message}`));
    return;
  }
  const took = Math.round(performance.now() - started);
  try {
    text = pretty(JSON.parse(text));
  } catch { /* shown as it came */ }
  const kind = answer.status < 300 ? "ok" : answer.status < 400 ? "not" : "bad";
  result.replaceChildren(
    h("p", { class: "line" }, h("strong", { class: `status ${kind}` }, `${answer.status} ${answer.statusText}`.trim()),
      h("span", { class: "hint" }, `${took} ms`)),
    h("h4", {}, "Headers"),
    h("pre", { class: "headers" }, [...answer.headers].map(([name, value]) => `${name}: ${value}`).join("\n")),
    h("h4", {}, "Body"),
    h("pre", { class: "body" }, text || "(empty)"),
  );
}

/** The beginning of a stream that has no end of its own: what comes within STREAM_MS. */
async function beginning(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  const over = new Promise((resolve) => setTimeout(resolve, STREAM_MS, { done: true }));
  let text = "";
  for (;;) {
    const { done, value } = await Promise.race([reader.read(), over]);
    if (done) break;
    text += value;
  }
  reader.cancel();
  return text;
}

// --- the page ---------------------------------------------------------------------------------------------

function show() {
  const main = document.getElementById("main");
  const nav = document.getElementById("nav");
  document.getElementById("version").textContent = spec.info.version;
  document.title = `${spec.info.title} API ${spec.info.version}`;
  const all = Object.entries(spec.paths).flatMap(([path, item]) =>
    METHODS.filter((method) => item[method]).map((method) => [path, method, item[method]]));
  const found = [];
  const sections = spec.tags.map((tag) => {
    const links = h("ul");
    const section = h("section", { "aria-label": tag.name }, h("h2", {}, tag.name), h("p", {}, tag.description));
    const group = h("div", {}, h("h2", {}, tag.name), links);
    for (const [path, method, operation] of all.filter(([, , each]) => each.tags.includes(tag.name))) {
      const badge = () => h("span", { class: `method ${method}` }, method.toUpperCase());
      const details = h("details", { class: "op", id: operation.operationId },
        h("summary", {}, badge(), h("span", { class: "path" }, breakable(path)), h("span", { class: "brief" }, inline(operation.summary))));
      details.addEventListener("toggle", () => {
        if (details.open && details.childElementCount === 1) details.append(fill(path, method, operation));
      });
      const link = h("li", {}, h("a", { href: `#${operation.operationId}`, onclick: () => (details.open = true) },
        badge(), h("span", {}, breakable(path.replace("/api/session", "") || path))));
      section.append(details);
      links.append(link);
      const text = [method, path, operation.operationId, operation.summary, tag.name].join(" ").toLowerCase();
      found.push({ text, details, link, section, group });
    }
    nav.append(group);
    return section;
  });
  main.replaceChildren(prose(spec.info.description, "about"), ...sections);
  document.getElementById("filter").addEventListener("input", (event) => {
    const words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const each of found) {
      each.details.hidden = each.link.hidden = !words.every((word) => each.text.includes(word));
    }
    for (const each of found) {
      const none = found.every((other) => other.section !== each.section || other.details.hidden);
      each.section.hidden = each.group.hidden = none;
    }
  });
  const open = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target && target.tagName === "DETAILS") {
      target.open = true;
      target.scrollIntoView();
    }
  };
  addEventListener("hashchange", open);
  open();
}

(async () => {
  try {
    const answer = await fetch(new URL("openapi.json", here));
    if (!answer.ok) throw new Error(`${answer.status} ${answer.statusText}`);
    spec = await answer.json();
    show();
  } catch (error) {
    document.getElementById("status").textContent = `The document could not be read: ${error.message}`;
  }
})();
