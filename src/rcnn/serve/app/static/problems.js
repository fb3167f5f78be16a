// What `rcnn data check` says of the data set that was opened, errors first.

import { ask } from "./api.js";
import { $, guarded, make } from "./dom.js";

export function showProblems(page, tabs) {
  tabs.add("problems", "Problems");
  const load = guarded(async () => {
    $("tab-problems").replaceChildren(make("p", { className: "faint", role: "status" }, "checking the data set …"));
    const { problems, summary, total } = await ask("api/problems");
    const errors = problems.filter((one) => one.severity === "error").length;
    $("tab-problems-button").textContent = total ? `Problems ${total}` : "Problems";
    if (errors) tabs.choose("problems");
    const rows = problems.map((one) => make("div", { className: `issue ${one.severity}` },
      make("p", {}, make("strong", {}, `${one.severity}: `), `${one.what} ${one.advice}`),
      make("p", { className: "place" }, one.place),
      one.number === null ? null : make("button", { className: "small quiet", onclick: () => page.open(one.number) }, "Show the image")));
    $("tab-problems").replaceChildren(make("p", { className: "faint lines" }, summary), ...(rows.length ? rows : [make("p", {}, "No problems were found.")]));
  });
  load();
}
