// Numbers, counts and values as texts.

const whole = new Intl.NumberFormat("en");
const decimal = new Intl.NumberFormat("en", { maximumFractionDigits: 2 });
const money = new Intl.NumberFormat("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 });

export const count = (number) => whole.format(number);

/** Return "1 product", "2,400 products". */
export const counted = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;

/** Return a score with as many digits as tell scores apart: 0.831, 7.10, 41.2. */
export const figure = (number) => (number == null ? "–" : number.toFixed(Math.abs(number) < 1 ? 3 : Math.abs(number) < 10 ? 2 : 1));

/** Return milliseconds: 0.42, 3.1, 120. */
export const milliseconds = (time) => (time < 1 ? time.toFixed(2) : time < 10 ? time.toFixed(1) : count(Math.round(time)));

/** Return a value of a product's field as a text; "" if it has none. */
export function valueText(value, name = "") {
  if (value == null) return "";
  if (typeof value === "number") return (/price|cost/i.test(name) ? money : decimal).format(value);
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (Array.isArray(value)) return value.map((item) => valueText(item)).filter(Boolean).join(", ");
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

/** Return a field's name as a heading: "list_price" is "List price". */
export function heading(name) {
  const words = name.replace(/[_\s]+/g, " ").trim() || name;
  return words[0].toUpperCase() + words.slice(1);
}

/** Return the end of a model's path or id: "runs/quickstart", "intfloat/e5-large-v2". */
export const modelName = (name) => name.split(/[\\/]/).filter(Boolean).slice(-2).join("/");

/** Return "1st", "2nd", "3rd", "11th". */
export function ordinal(number) {
  const ends = { one: "st", two: "nd", few: "rd", other: "th" };
  return `${count(number)}${ends[new Intl.PluralRules("en", { type: "ordinal" }).select(number)]}`;
}
