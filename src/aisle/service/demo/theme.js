"use strict";
// Loaded before the page is drawn, so that a dark page never flashes white.
(() => {
  const root = document.documentElement;
  const systemDark = window.matchMedia("(prefers-color-scheme: dark)");
  // Browsers may refuse storage; the choice then lasts until the page is closed.
  const stored = {
    get() { try { return localStorage.getItem("aisle-theme"); } catch { return null; } },
    set(theme) { try { localStorage.setItem("aisle-theme", theme); } catch { /* not stored */ } },
  };
  if (["light", "dark"].includes(stored.get())) root.dataset.theme = stored.get();

  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const shown = () => root.dataset.theme || (systemDark.matches ? "dark" : "light");
    const name = () => { button.textContent = shown() === "dark" ? "Light" : "Dark"; };
    button.hidden = false;
    name();
    systemDark.addEventListener("change", name);
    button.addEventListener("click", () => {
      root.dataset.theme = shown() === "dark" ? "light" : "dark";
      stored.set(root.dataset.theme);
      name();
    });
  });
})();
