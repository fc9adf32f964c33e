"use strict";
(() => {
  const root = document.documentElement;
  const themeButton = document.getElementById("theme");
  const systemDark = window.matchMedia("(prefers-color-scheme: dark)");

  // Browsers may refuse storage to a page on disk; the choice then lasts until the page is closed.
  const stored = {
    get() { try { return localStorage.getItem("aisle-theme"); } catch { return null; } },
    set(theme) { try { localStorage.setItem("aisle-theme", theme); } catch { /* not stored */ } },
  };
  const shownTheme = () => root.dataset.theme || (systemDark.matches ? "dark" : "light");
  const nameButton = () => { themeButton.textContent = shownTheme() === "dark" ? "Light" : "Dark"; };
  if (["light", "dark"].includes(stored.get())) root.dataset.theme = stored.get();
  themeButton.hidden = false;
  nameButton();
  systemDark.addEventListener("change", nameButton);
  themeButton.addEventListener("click", () => {
    root.dataset.theme = shownTheme() === "dark" ? "light" : "dark";
    stored.set(root.dataset.theme);
    nameButton();
  });

  const compare = (first, second, numbers) =>
    numbers ? Number(first) - Number(second) : first.localeCompare(second, "en", { numeric: true });

  function sortBy(table, heading) {
    const column = heading.cellIndex;
    const numbers = heading.classList.contains("number");
    const was = heading.getAttribute("aria-sort");
    const next = was ? (was === "ascending" ? "descending" : "ascending") : numbers ? "descending" : "ascending";
    const sign = next === "ascending" ? 1 : -1;
    const value = (row) => row.cells[column].dataset.sort;
    const rows = [...table.tBodies[0].rows].sort((first, second) => {
      const [one, two] = [value(first), value(second)];
      if (one === undefined || two === undefined) return (one === undefined) - (two === undefined);
      return sign * compare(one, two, numbers);
    });
    for (const other of heading.parentElement.cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", next);
    table.tBodies[0].append(...rows);
  }

  for (const table of document.querySelectorAll("table.data")) {
    for (const heading of table.tHead.querySelectorAll("th[data-sortable]")) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      button.addEventListener("click", () => sortBy(table, heading));
      heading.append(button);
    }
  }

  // Open folded parts for printing, then fold them again.
  let opened = [];
  window.addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const details of opened) details.open = true;
  });
  window.addEventListener("afterprint", () => {
    for (const details of opened) details.open = false;
  });
})();
