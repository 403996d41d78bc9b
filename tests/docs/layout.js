// Looks at the page in each frame once its formulas are there, and writes as JSON what is wrong with its layout and its formulas.
const scrolls = (style) => ["auto", "scroll"].includes(style.overflowX);

function faultsOf(page, view, width) {
  const found = [];
  const say = (kind, element) => found.push(`${kind}: <${element.tagName.toLowerCase()} class="${element.className}"> ${element.textContent.trim().slice(0, 60)}`);
  const shown = (element) => element.getClientRects().length > 0 && view.getComputedStyle(element).visibility !== "hidden";
  const inScroller = (element) => {
    for (let e = element; e && e !== page.body; e = e.parentElement) if (scrolls(view.getComputedStyle(e))) return true;
    return false;
  };
  const content = page.querySelector("article") || page.body;
  for (const element of content.querySelectorAll("*")) {
    if (!shown(element) || element.closest("svg, mjx-container, .visually-hidden, .headerlink, .copybtn")) continue;
    const style = view.getComputedStyle(element), box = element.getBoundingClientRect();
    if (box.right > width + 1 && !inScroller(element)) say("sticks out", element);
    if (["hidden", "clip"].includes(style.overflowX) && element.scrollWidth > element.clientWidth + 1) say("clipped", element);
    const inFlow = (e) => !["absolute", "fixed", "sticky"].includes(view.getComputedStyle(e).position);
    const isBlock = (e) => ["block", "flex", "grid", "table"].includes(view.getComputedStyle(e).display);
    const blocks = [...element.parentElement.children].filter((e) => shown(e) && isBlock(e) && inFlow(e));
    const next = blocks[blocks.indexOf(element) + 1];
    if (blocks.includes(element) && next && style.float === "none") {
      const other = next.getBoundingClientRect();
      if (box.height > 0 && other.height > 0 && box.bottom > other.top + 3 && box.right > other.left + 1 && other.right > box.left + 1 && other.bottom > box.top) say("overlap", element);
    }
  }
  return [...new Set(found)];
}

function report(frame) {
  const view = frame.contentWindow, page = view.document;
  return {
    faults: faultsOf(page, view, frame.clientWidth),
    formulas: page.querySelectorAll("mjx-container").length,
    broken: page.querySelectorAll("[data-mjx-error]").length,
    scrolled: [...(page.querySelector("article") || page.body).querySelectorAll("pre, .table-wrapper, .scroll")]
      .filter((e) => e.scrollWidth > e.clientWidth + 2).map((e) => `${e.textContent.trim().slice(0, 60)}: ${e.scrollWidth}`),
  };
}

window.addEventListener("load", () => setTimeout(() => {
  const reports = [...document.querySelectorAll("iframe")].map(report);
  document.getElementById("out").textContent = JSON.stringify(reports);
}, 10000));
