"use strict";
// Names come from files: they are set as text, never as HTML.
const data = window.GALLERY;
const byId = (id) => document.getElementById(id);
const clusterOf = new Map(data.clusters.flatMap((c) => c.rows.map((row) => [row, c.number])));
const figureText = (value) => (value <= 1 && !Number.isInteger(value) ? value.toFixed(3) : String(value));

function element(tag, text = "", parent = null) {
  const made = document.createElement(tag);
  made.textContent = text;
  if (parent) parent.append(made);
  return made;
}

function picture(row) {
  const image = document.createElement("img");
  image.loading = "lazy";
  image.src = `${data.thumbnails}/${String(row).padStart(6, "0")}.jpg`;
  image.alt = data.names[row];
  return image;
}

function card(row, similarity = null) {
  const figure = document.createElement("figure");
  figure.dataset.search = `${data.names[row]} ${data.labels ? data.labels[row] : ""}`.toLowerCase();
  figure.title = data.names[row];
  const button = element("button", "", figure);
  button.append(picture(row));
  button.addEventListener("click", () => show(row));
  const caption = element("figcaption", "", figure);
  if (similarity !== null) element("b", similarity.toFixed(3), caption);
  element("span", data.labels ? data.labels[row].replaceAll("_", " ") : data.names[row], caption);
  return figure;
}

function show(row) {
  const text = document.createElement("div");
  element("p", data.names[row], text).id = "detail-name";
  if (data.labels) element("p", `Class: ${data.labels[row].replaceAll("_", " ")}`, text);
  element("p", `Cluster ${clusterOf.get(row)}`, text);
  byId("query").replaceChildren(picture(row), text);
  const cards = data.neighbors[row].map((other, i) => {
    const figure = card(other, data.similarities[row][i]);
    if (data.labels) figure.className = data.labels[other] === data.labels[row] ? "same" : "other";
    return figure;
  });
  byId("neighbors").replaceChildren(...cards);
  if (!byId("detail").open) byId("detail").showModal();
  byId("detail").scrollTop = 0;
  history.replaceState(null, "", `#${row}`);
}

function fill() {
  document.title = data.title;
  byId("title").textContent = data.title;
  byId("summary").textContent =
    `${data.names.length} images in ${data.clusters.length} clusters; click one for its neighbours`;
  if (data.labels) byId("legend").textContent += "; blue: of the same class, red: of another";
  for (const [name, value] of Object.entries(data.metrics)) {
    const pair = element("div", "", byId("metrics"));
    element("dt", name.replaceAll("_", " "), pair);
    element("dd", figureText(value), pair);
  }
  for (const cluster of data.clusters) {
    const section = element("section", "", byId("clusters"));
    const heading = element("h2", `Cluster ${cluster.number}`, section);
    const classes = cluster.commonest.map(([name, count]) => `${name.replaceAll("_", " ")} ${count}`);
    element("small", [`${cluster.rows.length} images`, ...classes].join(" · "), heading);
    const grid = element("div", "", section);
    grid.className = "grid";
    grid.append(...cluster.rows.map((row) => card(row)));
  }
}

byId("filter").addEventListener("input", (event) => {
  const wanted = event.target.value.trim().toLowerCase();
  for (const section of document.querySelectorAll("section")) {
    const figures = [...section.querySelectorAll("figure")];
    for (const figure of figures) figure.hidden = !figure.dataset.search.includes(wanted);
    section.hidden = figures.every((figure) => figure.hidden);
  }
});
byId("detail").addEventListener("click", (event) => {
  if (event.target === byId("detail")) byId("detail").close();
});
byId("detail").addEventListener("close", () => history.replaceState(null, "", " "));

fill();
const linked = location.hash.slice(1);
if (linked !== "" && data.names[Number(linked)] !== undefined) show(Number(linked));
