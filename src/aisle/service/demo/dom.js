// Build elements. Texts become text nodes only, so nothing in a catalogue is ever read as markup.

const SVG = "http://www.w3.org/2000/svg";

function filled(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value != null) made.setAttribute(name, value);
  }
  made.append(...children.flat(Infinity).filter((child) => child != null && child !== false));
  return made;
}

/** Return an element. An attribute with a function is an event listener; null children are left out. */
export function element(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** Return an SVG element. */
export function drawing(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

/** Return the element with an id of index.html. */
export const byId = (id) => document.getElementById(id);

/** Return a text whose direction does not affect its neighbours. */
export const isolated = (text) => element("bdi", {}, text);

/** Return a text with its spans of code points [[start, end], ...] marked. */
export function marked(text, spans = []) {
  const points = Array.from(text); // the service counts code points, JavaScript UTF-16 units
  const parts = [];
  let done = 0;
  for (const [start, end] of [...spans].sort((one, other) => one[0] - other[0])) {
    if (start < done || end > points.length || start >= end) continue;
    parts.push(points.slice(done, start).join(""), element("mark", {}, points.slice(start, end).join("")));
    done = end;
  }
  return element("bdi", {}, ...parts, points.slice(done).join(""));
}
