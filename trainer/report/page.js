// A comfort that the page does without: a read-out of the charts.
(() => {
  function nearest(steps, step) {
    let low = 0, high = steps.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (steps[middle] < step) low = middle; else high = middle;
    }
    return step - steps[low] <= steps[high] - step ? low : high;
  }

  for (const figure of document.querySelectorAll("figure.chart")) {
    const { box, series } = JSON.parse(figure.querySelector("script").textContent);
    const svg = figure.querySelector("svg");
    const caption = figure.querySelector("figcaption");
    const outputs = [...figure.querySelectorAll("output")];
    const newest = outputs.map((o) => o.textContent);
    const at = document.createElement("span");
    at.className = "at";
    caption.append(at);
    const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
    line.setAttribute("class", "cross");
    line.setAttribute("y1", box.y0);
    line.setAttribute("y2", box.y1);
    const leave = () => {
      outputs.forEach((o, i) => { o.textContent = newest[i]; });
      at.textContent = "";
      line.remove();
    };
    svg.addEventListener("pointermove", (event) => {
      const bounds = svg.getBoundingClientRect();
      const x = (event.clientX - bounds.left) / bounds.width * box.w;
      if (x < box.x0 || x > box.x1) { leave(); return; }
      const step = box.low + (x - box.x0) / (box.x1 - box.x0) * (box.high - box.low);
      series.forEach((s, i) => { outputs[i].textContent = s.y[nearest(s.x, step)]; });
      at.textContent = "step " + Math.round(step).toLocaleString("en");
      line.setAttribute("x1", x);
      line.setAttribute("x2", x);
      svg.append(line);
    });
    svg.addEventListener("pointerleave", leave);
  }
})();
