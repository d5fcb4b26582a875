"use strict";
const made = (kind, text, name) => { const e = document.createElement(kind); e.textContent = text || ""; e.className = name || ""; return e; };

function whole(schema, schemas, depth) {
  if (!schema || depth > 4) return schema;
  if (schema.$ref) return whole(schemas[schema.$ref.split("/").pop()], schemas, depth + 1);
  if (Array.isArray(schema)) return schema.map((each) => whole(each, schemas, depth));
  if (typeof schema !== "object") return schema;
  return Object.fromEntries(Object.entries(schema).map(([name, value]) => [name, whole(value, schemas, depth)]));
}

function shown(title, content, schemas) {
  const schema = content && content["application/json"] && content["application/json"].schema;
  if (!schema) return [];
  const details = made("details");
  details.append(made("summary", title), made("pre", JSON.stringify(whole(schema, schemas, 0), null, 2)));
  return [details];
}

fetch("openapi.json").then((answer) => answer.json()).then((api) => {
  for (const [path, methods] of Object.entries(api.paths)) for (const [method, operation] of Object.entries(methods)) {
    const section = made("section"), head = made("h2"), schemas = api.components.schemas;
    head.append(made("span", method.toUpperCase(), "method"), made("code", path));
    section.append(head, made("p", operation.summary + (operation.security ? "" : " Needs no key.")));
    if (operation.requestBody) section.append(...shown("What it takes", operation.requestBody.content, schemas));
    for (const [status, answer] of Object.entries(operation.responses)) {
      const details = shown(status + ": " + answer.description, answer.content, schemas);
      section.append(...(details.length ? details : [made("p", status + ": " + answer.description, "soft")]));
    }
    document.getElementById("operations").append(section);
  }
});
