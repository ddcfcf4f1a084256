// Lists what openapi.json describes.
const element = (name, text = "") => Object.assign(document.createElement(name), { textContent: text });

function table(rows) {
  const made = element("table");
  made.append(...rows.map(([name, text]) => {
    const row = element("tr"), head = element("th", name);
    head.scope = "row";
    row.append(head, element("td", text));
    return row;
  }));
  return made;
}

const api = await (await fetch("openapi.json")).json();
document.getElementById("description").textContent = api.info.description;
document.getElementById("here").textContent = new URL(".", location);
for (const [path, methods] of Object.entries(api.paths)) {
  for (const [method, { description, parameters = [], requestBody, responses }] of Object.entries(methods)) {
    const section = element("section");
    section.append(element("h2", `${method.toUpperCase()} ${path}`), element("p", description));
    if (requestBody) {
      section.append(element("h3", "Body"), element("p", requestBody.description),
        element("p", Object.keys(requestBody.content).join(" or ")));
    }
    if (parameters.length) {
      section.append(element("h3", "Parameters"),
        table(parameters.map((p) => [`${p.name} (${p.in})`, p.description ?? p.schema?.description ?? ""])));
    }
    section.append(element("h3", "Answers"), table(Object.entries(responses).map(([code, r]) => [code, r.description])));
    document.getElementById("operations").append(section);
  }
}
