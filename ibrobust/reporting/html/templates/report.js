"use strict";

// Answers are sorted by a number, and shown and saved as words.
const isVerdict = (head) => head.dataset.key.startsWith("verdict");

// Shown in %, and saved as shares in [0, 1].
const isPercent = (head) => (head.querySelector("small")?.textContent ?? "").startsWith("%");

// The leaderboard: a press on a column's head sorts by it, another one turns the order round. What is empty comes last.
for (const table of document.querySelectorAll("table.board")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, place) => {
    head.querySelector("button").addEventListener("click", () => {
      const first = head.dataset.falling === "true" ? "descending" : "ascending";
      const other = first === "ascending" ? "descending" : "ascending";
      const order = head.getAttribute("aria-sort") === first ? other : first;
      const sign = order === "ascending" ? 1 : -1;
      const numeric = head.dataset.numeric === "true";
      const key = (row) => row.cells[place].dataset.sort;
      const compare = (a, b) => (numeric ? Number(a) - Number(b) : a.localeCompare(b, "en", { numeric: true }));
      const rows = [...table.tBodies[0].rows].sort((a, b) => {
        const left = key(a), right = key(b);
        if (left === "" || right === "") return (left === "") - (right === "");
        return sign * compare(left, right);
      });
      table.tBodies[0].append(...rows);
      heads.forEach((one) => one.setAttribute("aria-sort", one === head ? order : "none"));
      document.getElementById("sorted").textContent =
        `Sorted by ${head.querySelector("span").textContent}, ${order}.`;
    });
  });
}

// Search and filters: a row is shown if it has every word, and every chosen value.
for (const table of document.querySelectorAll("table.board")) {
  const heads = [...table.tHead.rows[0].cells];
  const rows = [...table.tBodies[0].rows];
  const title = (place) => heads[place].querySelector("span").textContent;
  const value = (row, place) => (row.cells[place].dataset.sort === "" ? "" : row.cells[place].textContent.trim());
  const search = document.getElementById("search");
  const chosen = [];
  heads.forEach((head, place) => {
    const values = [...new Set(rows.map((row) => value(row, place)))].filter(Boolean).sort();
    const few = values.length > 1 && values.length <= 12 && head.dataset.key !== "cell" && values.every((one) => one.length <= 40);
    if (!few || (head.dataset.numeric === "true" && !isVerdict(head))) return;
    const label = document.createElement("label");
    const select = document.createElement("select");
    select.dataset.key = head.dataset.key;
    select.add(new Option("all", ""));
    values.forEach((one) => select.add(new Option(one)));
    label.append(`${title(place)} `, select);
    document.getElementById("filters").append(label);
    chosen.push([place, select]);
  });
  const show = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word))
        || !chosen.every(([place, select]) => !select.value || value(row, place) === select.value);
    }
    const count = rows.filter((row) => !row.hidden).length;
    document.getElementById("shown").textContent = count < rows.length ? `${count} of ${rows.length} rows` : "";
  };
  [search, ...chosen.map(([, select]) => select)].forEach((one) => one.addEventListener("input", show));

  // The rows that are shown, in their order: numbers as they were measured, not as they are rounded.
  const exact = (cell, head) => {
    if (cell.dataset.sort === "") return null;
    return head.dataset.numeric === "true" && !isVerdict(head) ? Number(cell.dataset.sort) : cell.textContent.trim();
  };
  const quoted = (field) => (field === null ? "" : /[",\n]/.test(field) ? `"${String(field).replaceAll('"', '""')}"` : String(field));
  for (const button of document.querySelectorAll("button[data-format]")) {
    button.addEventListener("click", () => {
      const places = heads.map((_, place) => place);
      // The marks beside a number have columns of their own, because the numbers stay numbers.
      const marks = [
        ["is an upper bound", (cell) => String(cell.dataset.bound === "true"), (found) => found.includes("true")],
        ["is not a sign of robustness", (cell) => String(cell.dataset.masked === "true"), (found) => found.includes("true")],
        ["number of images", (cell) => (cell.dataset.images ? Number(cell.dataset.images) : null),
          (found) => found.some((count) => count !== null)],
      ];
      const marked = marks.flatMap(([words, read, isNeeded]) => places
        .filter((place) => isNeeded(rows.map((row) => read(row.cells[place]))))
        .map((place) => ({ name: `${title(place)} ${words}`, read: (row) => read(row.cells[place]) })));
      const named = (place) => title(place) + (isPercent(heads[place]) ? " (share)" : "");
      const names = [...places.map(named), ...marked.map((mark) => mark.name)];
      const shown = [...table.tBodies[0].rows].filter((row) => !row.hidden);
      const fields = shown.map((row) => [
        ...heads.map((head, place) => exact(row.cells[place], head)),
        ...marked.map((mark) => mark.read(row)),
      ]);
      const csv = () => [names, ...fields].map((line) => line.map(quoted).join(",") + "\n").join("");
      const json = () => JSON.stringify(fields.map((line) => Object.fromEntries(line.map((field, place) => [names[place], field]))), null, 1);
      const format = button.dataset.format;
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([format === "csv" ? csv() : json()], { type: `text/${format}` }));
      link.download = `leaderboard.${format}`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    });
  }
}

// The charts: read the nearest point out, under the pointer or by the arrow keys.
for (const plot of document.querySelectorAll(".plot")) {
  const svg = plot.querySelector("svg");
  const output = plot.querySelector("output");
  const pointer = plot.querySelector(".pointer");
  const curves = [...plot.querySelectorAll(".curve")].map((element) => ({
    element,
    marks: [...element.querySelectorAll(".mark")].map((mark) => ({
      x: Number(mark.dataset.x), y: Number(mark.dataset.y), reading: mark.dataset.reading,
    })),
  }));
  let at = null;

  const read = (curve, mark) => {
    at = { curve, mark };
    const { x, y, reading } = curves[curve].marks[mark];
    curves.forEach((one, index) => one.element.classList.toggle("read", index === curve));
    plot.classList.add("reading-on");
    pointer.removeAttribute("hidden");
    pointer.querySelector("line").setAttribute("x1", x);
    pointer.querySelector("line").setAttribute("x2", x);
    pointer.querySelector("circle").setAttribute("cx", x);
    pointer.querySelector("circle").setAttribute("cy", y);
    if (output.textContent !== reading) output.textContent = reading;
  };
  const clear = () => {
    at = null;
    plot.classList.remove("reading-on");
    pointer.setAttribute("hidden", "");
    output.textContent = "\u00a0";
  };
  const nearest = (event) => {
    const box = svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    const y = ((event.clientY - box.top) / box.height) * svg.viewBox.baseVal.height;
    let best = null;
    curves.forEach((curve, index) => curve.marks.forEach((mark, place) => {
      const distance = Math.hypot(mark.x - x, mark.y - y);
      if (best === null || distance < best.distance) best = { distance, index, place };
    }));
    if (best) read(best.index, best.place);
  };
  svg.addEventListener("pointermove", nearest);
  svg.addEventListener("pointerdown", nearest);
  svg.addEventListener("pointerleave", (event) => {
    // A finger that is lifted leaves as well: what it touched stays to be read.
    if (event.pointerType === "mouse" && document.activeElement !== plot) clear();
  });
  plot.addEventListener("focus", () => {
    if (at === null && plot.matches(":focus-visible") && curves.length) read(0, 0);
  });
  plot.addEventListener("blur", clear);
  plot.addEventListener("keydown", (event) => {
    const [along, across] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] ?? [0, 0];
    if (event.key === "Escape") clear();
    if ((!along && !across) || !curves.length) return;
    event.preventDefault();
    const from = at ?? { curve: 0, mark: 0 };
    const curve = Math.min(Math.max(from.curve + across, 0), curves.length - 1);
    const mark = Math.min(Math.max(from.mark + along, 0), curves[curve].marks.length - 1);
    read(curve, mark);
  });
}
