// Elements by id, new elements, and the page's dialog. Texts are always text: nothing from files becomes markup.

export const $ = (id) => document.getElementById(id);

export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && typeof value !== "string") element[name] = value;
    else if (value !== undefined && value !== false) element.setAttribute(name === "className" ? "class" : name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export const swatch = (colour) => {
  const element = make("span", { className: "swatch", "aria-hidden": "true" });
  element.style.background = colour;
  return element;
};

export function showDialog(title, body, { wide = false, close = "Close" } = {}) {
  const dialog = $("dialog");
  $("dialog-title").textContent = title;
  $("dialog-body").replaceChildren(...body);
  $("dialog-close").textContent = close;
  dialog.classList.toggle("wide", wide);
  if (!dialog.open) dialog.showModal();
  return dialog;
}

export function showProblem(error) {
  if (error?.name === "AbortError") return;
  const text = error?.message || String(error);
  $("problem").replaceChildren(make("span", {}, text), make("button", { className: "quiet small", onclick: () => { $("problem").hidden = true; } }, "Dismiss"));
  $("problem").hidden = false;
}

/** Call a function and show what goes wrong. */
export const guarded = (work) => async (...given) => {
  try {
    return await work(...given);
  } catch (error) {
    showProblem(error);
    return undefined;
  }
};
