// Making elements. Text only ever becomes text: nothing on this page is parsed as markup.

/** An HTML element with attributes (null and false are left out) and children: elements, text, or null for nothing. */
export function element(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** The same in SVG. */
export function shape(tag, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function filled(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return made;
}

export const byId = (id) => document.getElementById(id);

/** Draw `paint(width)` into `place` now and whenever its width changes. */
export function drawnToFit(place, paint) {
  let drawn = 0;
  const draw = () => {
    const width = Math.floor(place.clientWidth);
    if (width > 0 && width !== drawn) {
      drawn = width;
      place.replaceChildren(paint(width));
    }
  };
  new ResizeObserver(draw).observe(place);
  draw();
}

let pressed = false;
document.addEventListener("pointerdown", () => (pressed = true), true);
for (const end of ["pointerup", "pointercancel"]) document.addEventListener(end, () => (pressed = false), true);

/** Call `then` now, or once what is pressed is let go: text that appears in between would move it from under the pointer. */
export function afterPress(then) {
  if (pressed) document.addEventListener("pointerup", () => setTimeout(then), { once: true });
  else then();
}
