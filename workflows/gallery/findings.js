"use strict";
(() => {
  const { images, cards, points, classes, splits, mostTiles, mostClasses } = JSON.parse(
    document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const step = 60;
  // Of each image, what was decided: [decision, label].
  const decisions = new Map();
  const past = [];
  let shown = [], limit = step, current = -1, chosen = 0, isSaved = true;

  const make = (name, className, text) => {
    const element = document.createElement(name);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const labelOf = (image) => images.labels[image] < 0 ? "" : classes[images.labels[image]];
  const splitOf = (image) => images.splits[image] < 0 ? "" : splits[images.splits[image]];
  const said = (decision) => decision[0] === "relabel" ? `relabel: ${decision[1]}` : decision[0];
  const isDone = (card) => card.ids.every((image) => decisions.has(image));
  const kindColors = { duplicate: 1, "near-duplicate": 6, label: 0, outlier: 3, image: 4 };
  const colorOf = (kind) => `c${kind in kindColors ? kindColors[kind] : 7}`;

  cards.forEach((card, number) => {
    card.number = number;
    const all = [...card.ids, ...card.beside];
    card.text = [card.kind, card.says, card.leak, ...all.map((image) => images.ids[image]),
      ...all.map(labelOf)].join("\n").toLowerCase();
  });

  // ---- Which cards are shown, and in which order.
  const [kind, label, state, sort] = ["kind", "label", "state", "sort"].map(byId);
  const used = new Set(cards.flatMap((card) => card.ids.map((image) => images.labels[image])));
  Array.from(used).filter((number) => number >= 0).sort((a, b) => a - b).slice(0, mostClasses)
    .forEach((number) => label.append(new Option(classes[number], String(number))));
  if (label.options.length === 1) label.parentElement.hidden = true;
  byId("names").append(...classes.slice(0, mostClasses).map((name) => new Option(name, name)));

  const orders = {
    score: (a, b) => b.score - a.score,
    id: (a, b) => images.ids[a.ids[0]].localeCompare(images.ids[b.ids[0]]),
    label: (a, b) => labelOf(a.ids[0]).localeCompare(labelOf(b.ids[0])),
  };

  function choose() {
    const words = byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    shown = cards.filter((card) => (!kind.value || card.kind === kind.value)
      && (!byId("leaks").checked || card.leak)
      && (!label.value || card.ids.some((image) => images.labels[image] === Number(label.value)))
      && (!state.value || isDone(card) === (state.value === "decided"))
      && words.every((word) => card.text.includes(word)));
    if (sort.value) shown.sort(orders[sort.value]);
    limit = step;
    current = -1;
    chosen = 0;
    byId("cards").replaceChildren();
    extend();
    byId("shown").textContent = `${shown.length} of ${cards.length}`;
    document.querySelectorAll("#counts button").forEach((button) => button.setAttribute("aria-pressed",
      String(button.dataset.kind === "leak" ? byId("leaks").checked : button.dataset.kind === kind.value)));
  }

  function extend() {
    const list = byId("cards");
    while (list.children.length < Math.min(limit, shown.length)) {
      list.append(draw(shown[list.children.length], list.children.length));
    }
    byId("more").hidden = limit >= shown.length;
  }

  // ---- One card.
  function tile(card, image, at) {
    const found = make("div", "tile");
    if (images.thumbnails[image]) {
      const picture = make("img");
      picture.src = images.thumbnails[image];
      picture.alt = "";
      found.append(picture);
    } else if (images.reasons[image]) {
      found.append(make("span", "absent", images.reasons[image]));
    }
    if (labelOf(image)) found.append(make("b", "", labelOf(image)));
    const id = make("small", "", images.ids[image]);
    id.title = images.ids[image];
    found.append(id);
    if (splitOf(image)) found.append(make("small", "", splitOf(image)));
    if (at === undefined) return found;
    found.classList.add("can");
    const proposal = card.proposals[at];
    const mark = decisions.get(image);
    found.append(mark ? make("span", `decision ${mark[0]}`, said(mark))
      : make("span", "decision proposal", proposal ? `${said(proposal)}?` : ""));
    return found;
  }

  function draw(card, place) {
    const item = make("li", isDone(card) ? "card done" : "card");
    item.tabIndex = -1;
    if (place === current) item.setAttribute("aria-current", "true");
    const head = make("div", "head");
    head.append(make("span", `badge ${colorOf(card.kind)}`, card.kind));
    if (card.leak) head.append(make("span", "badge c5", `leak: ${card.leak}`));
    head.append(make("span", "says", card.says), make("span", "quiet", `score ${card.score.toFixed(3)}`));
    const tiles = make("div", "tiles");
    card.ids.slice(0, mostTiles).forEach((image, at) => {
      const found = tile(card, image, at);
      if (place === current && at === chosen) found.classList.add("chosen");
      found.addEventListener("click", () => go(place, at));
      tiles.append(found);
    });
    if (card.ids.length > mostTiles) {
      tiles.append(make("span", "like", `and ${card.ids.length - mostTiles} more, decided by “accept”`));
    }
    if (card.beside.length) {
      tiles.append(make("span", "like", card.kind === "label" ? "near images labeled so:" : "nearest:"),
        ...card.beside.slice(0, mostTiles).map((image) => tile(card, image)));
    }
    const buttons = make("div", "buttons");
    const acts = [["a", "accept", accept], ["o", "keep", () => decide("keep")],
      ["x", "exclude", () => decide("exclude")], ["r", "relabel", ask]];
    for (const [key, name, act] of acts) {
      const button = make("button", "", `${name} `);
      button.type = "button";
      button.append(make("kbd", "", key));
      button.disabled = name === "accept" && !card.proposals.some(Boolean);
      button.addEventListener("click", () => {
        if (place !== current) go(place, 0);
        act();
      });
      buttons.append(button);
    }
    item.append(head, tiles, buttons);
    return item;
  }

  function redraw(place) {
    const old = byId("cards").children[place];
    if (old) old.replaceWith(draw(shown[place], place));
  }

  // ---- Moving and deciding.
  function go(place, at = 0) {
    if (!shown.length) return;
    const before = current;
    current = Math.max(0, Math.min(place, shown.length - 1));
    chosen = Math.max(0, Math.min(at, Math.min(shown[current].ids.length, mostTiles) - 1));
    if (current >= limit) {
      limit = current + step;
      extend();
    }
    if (before >= 0 && before !== current) redraw(before);
    redraw(current);
    const item = byId("cards").children[current];
    item.focus({ preventScroll: true });
    item.scrollIntoView({ block: "nearest" });
  }

  // Changes are [image, decision or undefined].
  function change(changes) {
    past.push({ place: shown[current].number, at: chosen,
      before: changes.map(([image]) => [image, decisions.get(image)]) });
    put(changes);
  }

  function put(changes) {
    for (const [image, decision] of changes) {
      if (decision) decisions.set(image, decision);
      else decisions.delete(image);
    }
    isSaved = decisions.size === 0;
    tell();
    // An image may be on several cards.
    const changed = new Set(changes.map(([image]) => image));
    Array.from(byId("cards").children).forEach((_, place) => {
      if (shown[place].ids.some((image) => changed.has(image))) redraw(place);
    });
  }

  function tell() {
    byId("decided").textContent = `${decisions.size} decided${isSaved ? "" : ", not saved"}`;
    byId("undo").disabled = !past.length;
    byId("save").disabled = !decisions.size;
  }

  function accept() {
    const card = shown[current];
    const changes = card.ids.map((image, at) => [image, card.proposals[at]]).filter(([, found]) => found);
    if (!changes.length) return;
    change(changes);
    go(current + 1);
  }

  function decide(decision, name = "") {
    const card = shown[current];
    change([[card.ids[chosen], [decision, name]]]);
    // After the last image of a finding comes the next finding.
    if (chosen + 1 < Math.min(card.ids.length, mostTiles)) go(current, chosen + 1);
    else go(current + 1);
  }

  function ask() {
    const item = byId("cards").children[current];
    const field = make("input");
    field.setAttribute("list", "names");
    field.setAttribute("aria-label", "New label");
    field.placeholder = "new label, then Enter";
    field.addEventListener("keydown", (event) => {
      if (event.key === "Escape") go(current, chosen);
      if (event.key !== "Enter") return;
      event.preventDefault();
      const name = field.value.trim();
      if (name) decide("relabel", name);
      else go(current, chosen);
    });
    item.querySelector(".buttons").append(field);
    field.focus();
  }

  function undo() {
    const last = past.pop();
    if (!last) return;
    put(last.before);
    const place = shown.findIndex((card) => card.number === last.place);
    if (place >= 0) go(place, last.at);
  }

  const quoted = (text) => /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;

  function save() {
    if (!decisions.size) return;
    const rows = Array.from(decisions).sort(([a], [b]) => a - b)
      .map(([image, [decision, name]]) => [images.ids[image], decision, name].map(quoted).join(","));
    const address = URL.createObjectURL(new Blob([["id,decision,label", ...rows, ""].join("\n")],
      { type: "text/csv;charset=utf-8" }));
    const link = make("a");
    link.href = address;
    link.download = "decisions.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(address), 10000);
    isSaved = true;
    tell();
  }

  const keys = {
    j: () => go(current + 1), ArrowDown: () => go(current + 1),
    k: () => go(current - 1), ArrowUp: () => go(current - 1),
    ArrowLeft: () => go(current, chosen - 1), ArrowRight: () => go(current, chosen + 1),
    a: accept, o: () => decide("keep"), x: () => decide("exclude"), r: ask, u: undo, s: save,
  };

  document.addEventListener("keydown", (event) => {
    const isTyping = ["INPUT", "SELECT", "TEXTAREA"].includes(event.target.tagName);
    if (event.ctrlKey || event.metaKey || event.altKey || isTyping || !Object.hasOwn(keys, event.key)) return;
    if ("aoxr".includes(event.key) && current < 0) return;
    event.preventDefault();
    keys[event.key]();
  });
  [kind, label, state, sort, byId("leaks")].forEach((each) => each.addEventListener("change", choose));
  byId("filter").addEventListener("input", choose);
  byId("more").addEventListener("click", () => { limit += step; extend(); });
  byId("undo").addEventListener("click", undo);
  byId("save").addEventListener("click", save);
  byId("counts").addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const isOn = button.getAttribute("aria-pressed") === "true";
    byId("leaks").checked = button.dataset.kind === "leak" && !isOn;
    kind.value = button.dataset.kind === "leak" || isOn ? "" : button.dataset.kind;
    choose();
  });
  // Browsers ask on behalf of a person only, and complain of pages that nobody has touched.
  window.addEventListener("beforeunload", (event) => {
    if (!isSaved && navigator.userActivation.hasBeenActive) event.preventDefault();
  });

  // ---- The map.
  const plot = byId("plot");
  if (plot) {
    const kindOf = new Map();
    cards.forEach((card) => card.ids.forEach((image) => {
      if (!kindOf.has(image)) kindOf.set(image, card.kind);
    }));
    const texts = { label: labelOf, split: splitOf, finding: (image) => kindOf.get(image) || "" };
    const margin = 14;
    let places = [];

    const paint = () => {
      const color = byId("color").value;
      const values = points.at.map(texts[color]);
      const counts = new Map();
      values.forEach((value) => counts.set(value, (counts.get(value) || 0) + 1));
      const none = color === "finding" ? "no finding" : `no ${color}`;
      const names = Array.from(counts.keys()).filter(Boolean).sort((a, b) => counts.get(b) - counts.get(a));
      // The seven most frequent values have colors of their own.
      const numbers = new Map(names.slice(0, 7).map((name, at) => [name, `c${at}`]));
      if (color === "finding") names.forEach((name) => numbers.set(name, colorOf(name)));
      const legend = names.filter((name) => numbers.has(name)).map((name) => make("span", numbers.get(name),
        `${name} (${counts.get(name)})`));
      const others = names.filter((name) => !numbers.has(name));
      if (others.length) legend.push(make("span", "c7", `${others.length} more`));
      if (counts.has("")) legend.push(make("span", "c7", `${none} (${counts.get("")})`));
      byId("legend").replaceChildren(...legend);

      const ratio = window.devicePixelRatio || 1;
      const [width, height] = [plot.clientWidth, plot.clientHeight];
      plot.width = width * ratio;
      plot.height = height * ratio;
      const context = plot.getContext("2d");
      context.scale(ratio, ratio);
      const [wide, high] = [Math.max(1, ...points.x), Math.max(1, ...points.y)];
      const scale = Math.min((width - 2 * margin) / wide, (height - 2 * margin) / high);
      const [left, bottom] = [(width - wide * scale) / 2, (height + high * scale) / 2];
      places = points.x.map((x, at) => [left + x * scale, bottom - points.y[at] * scale]);
      const style = getComputedStyle(document.documentElement);
      const radius = places.length > 5000 ? 1.6 : places.length > 800 ? 2.4 : 3.4;
      const order = places.map((_, at) => at).sort((a, b) => Boolean(values[a]) - Boolean(values[b]));
      for (const at of order) {
        context.fillStyle = style.getPropertyValue(`--${numbers.get(values[at]) || "c7"}`);
        context.globalAlpha = values[at] ? 0.8 : 0.35;
        context.beginPath();
        context.arc(...places[at], color === "finding" && values[at] ? radius + 1.2 : radius, 0, 7);
        context.fill();
      }
    };

    const nearest = (event) => {
      const box = plot.getBoundingClientRect();
      const [x, y] = [event.clientX - box.left, event.clientY - box.top];
      let [best, least] = [-1, 100];
      places.forEach(([left, top], at) => {
        const distance = (left - x) ** 2 + (top - y) ** 2;
        if (distance < least) [best, least] = [at, distance];
      });
      return best;
    };

    plot.addEventListener("mousemove", (event) => {
      const tip = byId("tip");
      const at = nearest(event);
      tip.hidden = at < 0;
      if (at < 0) return;
      const image = points.at[at];
      const found = tile(null, image);
      tip.replaceChildren(...found.childNodes);
      const [x, y] = places[at];
      tip.style.left = `${x > plot.clientWidth / 2 ? Math.max(0, x - 12 - tip.offsetWidth) : x + 12}px`;
      tip.style.top = `${y > plot.clientHeight / 2 ? Math.max(0, y - 12 - tip.offsetHeight) : y + 12}px`;
    });
    plot.addEventListener("mouseleave", () => { byId("tip").hidden = true; });
    plot.addEventListener("click", (event) => {
      const at = nearest(event);
      const place = at < 0 ? -1 : shown.findIndex((card) => card.ids.includes(points.at[at]));
      if (place >= 0) go(place, shown[place].ids.indexOf(points.at[at]));
    });
    byId("color").addEventListener("change", paint);
    window.addEventListener("resize", paint);
    window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
    if (!classes.length) byId("color").value = "finding";
    paint();
  }

  tell();
  choose();
})();
