"use strict";

const COLORS = { boundary: "#c05621", log_likelihood: "#2b6cb0", entropy: "#6b46c1", genes: "#2f855a" };
const CHUNK_COLORS = ["#2c5282", "#90b4d8"];
const LEGEND = {
  boundary: ["boundary probability", COLORS.boundary],
  chunks: ["chunks in alternating colors, with lengths", `linear-gradient(90deg, ${CHUNK_COLORS[0]} 50%, ${CHUNK_COLORS[1]} 50%)`],
  log_likelihood: ["log-likelihood", COLORS.log_likelihood],
  entropy: ["entropy", COLORS.entropy],
  genes: ["genes: blocks are exons, thick where coding", COLORS.genes],
};
const BASE_COLORS = { A: "#2f9e44", C: "#1971c2", G: "#e67700", T: "#e03131" };
const VISIBLE = { chunks: 100000, values: 100000, genes: 2000000 };
const CLICK_PIXELS = 4;

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

async function answer(request) {
  const response = await request;
  const content = await response.json();
  if (!response.ok) throw new Error(content.error);
  return content;
}

const post = (path, content) => answer(fetch(path, {
  method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(content),
}));

/** Reader of igv.js for features that the server looks up. */
function reader(url, feature) {
  return {
    async readFeatures(contig, start, end) {
      const region = new URLSearchParams({ contig, start: Math.max(0, Math.floor(start)), end: Math.ceil(end) });
      const rows = await answer(fetch(`${url}?${region}`));
      return rows.map((row, index) => ({ chr: contig, ...feature(row, index) }));
    },
  };
}

function chunk([start, end, first, mean], index) {
  return {
    start, end, name: `${end - start}`, color: CHUNK_COLORS[index % 2],
    length: end - start, "boundary probability": first, "mean probability": mean,
  };
}

function trackOptions(track, order) {
  const common = { name: track.label, order };
  if (track.kind === "genes") {
    return {
      ...common, type: "annotation", color: COLORS.genes, displayMode: "EXPANDED", height: 70, autoHeight: true, maxHeight: 120,
      visibilityWindow: VISIBLE.genes, reader: reader(track.url, (row) => row),
    };
  }
  if (track.kind === "chunks") {
    return {
      ...common, type: "annotation", displayMode: "COLLAPSED", height: 66, margin: 26,
      visibilityWindow: VISIBLE.chunks, reader: reader(track.url, chunk), color: (feature) => feature.color,
    };
  }
  const wig = { ...common, type: "wig", color: COLORS[track.signal], min: track.min, max: track.max, autoscale: false, height: 70 };
  return track.kind === "bigwig"
    ? { ...wig, format: "bigwig", url: track.url }
    : { ...wig, visibilityWindow: VISIBLE.values, reader: reader(track.url, ([start, end, value]) => ({ start, end, value })) };
}

function showLegend(tracks) {
  const kinds = Object.keys(LEGEND).filter((kind) => tracks.some((track) => (track.signal || track.kind) === kind));
  const items = kinds.map((kind) => {
    const swatch = element("i");
    swatch.style.background = LEGEND[kind][1];
    return element("li", {}, swatch, LEGEND[kind][0]);
  });
  document.getElementById("legend").replaceChildren(...items);
}

function bar(probability, color) {
  const fill = element("i");
  fill.style.cssText = `width:${100 * probability}%;background:${color}`;
  return [element("span", { className: "bar" }, fill), probability.toFixed(3)];
}

function distributionTable(model, bases, reference) {
  const rows = [...bases].map((base, index) => element("tr", {},
    element("th", { scope: "row", textContent: base }),
    ...["average", "forward", "reverse"].map((strand) => element("td", { className: base === reference ? "reference" : "" },
      ...bar(model[strand][index], BASE_COLORS[base])))));
  const head = ["", "both strands", "forward", "reverse"].map((text) => element("th", { textContent: text }));
  return element("table", {},
    element("caption", { textContent: `${model.name}: probabilities on the forward strand, window of ${(model.end - model.start).toLocaleString("en")} bases` }),
    element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...rows));
}

async function showBase(contig, position) {
  const place = document.getElementById("base");
  place.replaceChildren(element("p", { className: "hint", textContent: "computing …" }));
  try {
    const found = await post("api/base", { contig, position });
    place.replaceChildren(
      element("p", {}, element("strong", { textContent: `${contig}:${(position + 1).toLocaleString("en")}` })),
      element("p", { className: "context" }, found.before, element("b", { textContent: found.base }), found.after),
      ...found.models.map((model) => distributionTable(model, found.bases, found.base.toUpperCase())));
    if (!found.models.length) {
      place.append(element("p", { className: "hint", textContent: "Restart ldarnet browse with --model to see predictions." }));
    }
  } catch (error) {
    place.replaceChildren(element("p", { className: "error", textContent: error.message }));
  }
}

/** Answer clicks on any track; a drag is not a click. */
function listenForClicks(browser, container) {
  let pressed = null;
  container.addEventListener("mousedown", (event) => { pressed = event; }, true);
  container.addEventListener("mouseup", (event) => {
    const viewport = event.composedPath().find((node) => node.classList && node.classList.contains("igv-viewport"));
    const moved = pressed ? Math.hypot(event.clientX - pressed.clientX, event.clientY - pressed.clientY) : Infinity;
    if (!viewport || moved > CLICK_PIXELS || event.button !== 0) return;
    const frame = browser.referenceFrameList[0];
    const position = Math.floor(frame.start + (event.clientX - viewport.getBoundingClientRect().left) * frame.bpPerPixel);
    showBase(frame.chr, position);
  }, true);
}

function showChunks(stages, bases) {
  const blocks = stages.map((chunks, stage) => {
    const mean = bases.length / Math.max(chunks.length, 1);
    const spans = chunks.map(({ start, end, p }) => element("span", {
      textContent: bases.slice(start, end),
      title: `${start + 1}-${end}: ${end - start} bases${p === null ? "" : `, boundary probability ${p}`}`,
    }));
    const text = `stage ${stage}: ${chunks.length.toLocaleString("en")} chunks of ${bases.length.toLocaleString("en")} bases, ${mean.toFixed(1)} bases per chunk`;
    return element("div", {}, element("p", { className: "hint", textContent: text }), element("div", { className: "spans" }, ...spans));
  });
  document.getElementById("chunks").replaceChildren(...blocks);
}

function listenForSequences(models) {
  const form = document.getElementById("form");
  const place = document.getElementById("chunks");
  const select = document.getElementById("model");
  select.replaceChildren(...models.map((model, index) => element("option", { value: index, textContent: model.name })));
  if (!models.length) {
    form.hidden = true;
    place.replaceChildren(element("p", { className: "hint", textContent: "Restart ldarnet browse with --model to see chunks." }));
  }
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const sequence = document.getElementById("sequence").value;
    place.replaceChildren(element("p", { className: "hint", textContent: "computing …" }));
    try {
      const { bases, stages } = await post("api/tokenize", { model: Number(select.value), sequence });
      showChunks(stages, bases);
    } catch (error) {
      place.replaceChildren(element("p", { className: "error", textContent: error.message }));
    }
  });
}

async function main() {
  const page = await answer(fetch("page.json"));
  document.title = `${page.genome} · ldarnet browse`;
  document.getElementById("genome").textContent = page.genome;
  showLegend(page.tracks);
  listenForSequences(page.models);
  const container = document.getElementById("browser");
  const browser = await igv.createBrowser(container, {
    reference: {
      id: page.genome, name: page.genome, fastaURL: "sequence", indexURL: "sequence.fai", format: "fasta",
      wholeGenomeView: false,
    },
    loadDefaultGenomes: false,
    locus: page.locus,
    showIdeogram: false,
    showCursorGuide: true,
    tracks: page.tracks.map(trackOptions),
  });
  listenForClicks(browser, container);
  browser.on("trackclick", (track) => (track.type === "wig" ? false : undefined)); // no list of neighboring values
  window.browser = browser;
}

main().catch((error) => {
  const place = document.getElementById("problem");
  place.textContent = error.message || String(error);
  place.hidden = false;
}).finally(() => { document.body.dataset.ready = "true"; });
