"use strict";
(() => {
  const collator = new Intl.Collator("en", { numeric: true });

  // Tables: a click on a heading sorts, a second one reverses the order. data-sort is a cell's sort key, else its text.
  const keyOf = (row, column) => {
    const cell = row.cells[column];
    const text = cell.dataset.sort ?? cell.textContent.trim();
    const number = Number(text);
    return text === "" || text === "-" ? null : Number.isNaN(number) ? text : number;
  };
  const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : collator.compare(String(a), String(b)));
  const rowsOf = (body) => [...body.rows].filter((row) => !row.classList.contains("group"));
  for (const table of document.querySelectorAll("table")) {
    table.querySelectorAll("thead button").forEach((button) => {
      const heading = button.parentElement;
      button.addEventListener("click", () => {
        const down = heading.getAttribute("aria-sort") !== "ascending";
        for (const other of table.querySelectorAll("thead th")) other.removeAttribute("aria-sort");
        heading.setAttribute("aria-sort", down ? "ascending" : "descending");
        for (const body of table.tBodies) {
          const rows = rowsOf(body).map((row) => ({ row, key: keyOf(row, heading.cellIndex) }));
          rows.sort((a, b) => (a.key === null ? 1 : b.key === null ? -1 : (down ? 1 : -1) * compare(a.key, b.key)));
          body.append(...rows.map(({ row }) => row));
        }
      });
    });
  }

  // A table that is wider or higher than its frame shows a hint while there is more to see.
  for (const frame of document.querySelectorAll(".frame")) {
    const inner = frame.firstElementChild;
    const hint = frame.nextElementSibling;
    const look = () => {
      const right = inner.scrollWidth - inner.clientWidth;
      hint.hidden = right < 4;
      frame.classList.toggle("more-right", right - inner.scrollLeft > 4);
      frame.classList.toggle("more-below", inner.scrollHeight - inner.clientHeight - inner.scrollTop > 4);
    };
    inner.addEventListener("scroll", look, { passive: true });
    new ResizeObserver(look).observe(inner);
    look();
  }

  // Every word must occur in a row, in any order and case.
  const words = (text) => text.toLowerCase().split(/\s+/).filter(Boolean);
  for (const input of document.querySelectorAll("input[data-filters]")) {
    const rows = [...document.getElementById(input.dataset.filters).tBodies].flatMap(rowsOf);
    const count = document.querySelector(`[data-count="${input.dataset.filters}"]`);
    const apply = () => {
      const wanted = words(input.value);
      let left = 0;
      for (const row of rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !wanted.every((word) => text.includes(word));
        left += row.hidden ? 0 : 1;
      }
      count.textContent = `${left} of ${rows.length} rows`;
    };
    input.addEventListener("input", apply);
    apply();
  }

  // Items: the data are JSON and only become text nodes.
  const element = (tag, text, className) => {
    const made = document.createElement(tag);
    if (text !== undefined && text !== null) made.textContent = text;
    if (className) made.className = className;
    return made;
  };
  const percent = (share) => (share === null ? null : `${(100 * share).toFixed(0)}%`);
  const STEP = 20;
  for (const browser of document.querySelectorAll("[data-items]")) {
    const data = JSON.parse(document.getElementById(browser.dataset.items).textContent);
    const items = data.rows.map((row) => Object.fromEntries(data.columns.map((name, i) => [name, row[i]])));
    for (const item of items) {
      const texts = [item.prompt, item.target, item.answer_before, item.answer_after, item.task, item.cell];
      item.text = texts.filter((text) => text !== null).join("\n").toLowerCase();
    }
    const part = (name) => browser.querySelector(`[data-part="${name}"]`);
    const choose = (select, all, values) => {
      select.append(new Option(all, ""));
      for (const value of [...new Set(values)]) select.append(new Option(value, value));
    };
    choose(part("cell"), "all", items.map((item) => item.cell));
    choose(part("task"), "all", items.map((item) => item.task));
    choose(part("outcome"), "lost and gained", items.map((item) => item.outcome));
    const nothing = -Infinity;
    const orders = {
      lost: (item) => item.confidence_lost ?? nothing,
      gained: (item) => (item.confidence_lost === null ? nothing : -item.confidence_lost),
      sure: (item) => item.confidence_before ?? nothing,
    };
    const answer = (title, text, confidence, right) => {
      const box = element("div", null, right ? "answer right" : "answer wrong");
      box.append(element("span", title, "side"), element("bdi", text ?? "(none)"));
      if (confidence !== null) box.append(element("span", `${percent(confidence)} on the right answer`, "confidence"));
      return box;
    };
    const card = (item) => {
      const made = element("li", null, `item ${item.outcome === "lost" ? "lost" : "gained"}`);
      const head = element("p", null, "item-head");
      const sign = item.outcome === "lost" ? "▼" : "▲";
      head.append(element("span", `${sign} ${item.outcome}`, `verdict ${item.outcome === "lost" ? "lost" : "gained"}`));
      head.append(element("span", item.task), element("span", item.cell));
      const wasRight = item.outcome === "lost";
      const both = element("div", null, "answers");
      both.append(answer("before", item.answer_before, item.confidence_before, wasRight));
      both.append(answer("now", item.answer_after, item.confidence_after, !wasRight));
      const target = element("p", null, "target");
      target.append(element("span", "right answer ", "side"), element("bdi", item.target));
      made.append(head, element("p", item.prompt, "prompt"), target, both);
      return made;
    };
    let limit = STEP;
    const show = () => {
      const wanted = words(part("search").value);
      const [cell, task, outcome] = ["cell", "task", "outcome"].map((name) => part(name).value);
      const key = orders[part("order").value];
      const found = items.filter(
        (item) =>
          (!cell || item.cell === cell) && (!task || item.task === task) && (!outcome || item.outcome === outcome) &&
          wanted.every((word) => item.text.includes(word)),
      );
      found.sort((a, b) => (key(a) === key(b) ? 0 : key(b) > key(a) ? 1 : -1));
      part("count").textContent = `${found.length} of ${items.length} items match, ${Math.min(limit, found.length)} shown.`;
      part("list").replaceChildren(...found.slice(0, limit).map(card));
      part("more").hidden = found.length <= limit;
    };
    for (const name of ["search", "cell", "task", "outcome", "order"]) {
      part(name).addEventListener("input", () => { limit = STEP; show(); });
    }
    part("more").addEventListener("click", () => { limit += STEP; show(); });
    show();
  }

  // On a narrow screen the list of sections starts folded: it would fill the first page.
  if (window.matchMedia("(max-width: 70rem)").matches) document.querySelector("nav details").open = false;
})();
