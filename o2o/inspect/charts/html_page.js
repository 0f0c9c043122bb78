"use strict";
// Draws each chart when it comes near the viewport, in the system's light or dark theme.
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const touch = matchMedia("(pointer: coarse)").matches;
  const darkColors = JSON.parse(document.getElementById("dark").textContent);
  const config = {
    displaylogo: false,
    displayModeBar: touch ? false : "hover",
    responsive: true,
    scrollZoom: false, // the wheel scrolls the page
    showSendToCloud: false, // no data leave this page
  };
  const buttons = {
    plot2d: [["toImage"], ["zoom2d", "pan2d", "resetScale2d"]],
    plot3d: [["toImage"], ["orbitRotation", "zoom3d", "pan3d", "resetCameraDefault3d"]],
  };
  const drawn = new Set();

  function draw(plot) {
    let text = plot.nextElementSibling.textContent;
    if (dark.matches) {
      for (const [light, darkColor] of darkColors) text = text.replaceAll(light, darkColor);
    }
    const figure = JSON.parse(text);
    const kind = figure.layout.scene ? "plot3d" : "plot2d";
    if (touch && kind === "plot2d") figure.layout.dragmode = false; // a finger scrolls the page
    drawn.add(plot);
    Plotly.react(plot, figure.data, figure.layout, { ...config, modeBarButtons: buttons[kind] });
  }

  const plots = [...document.querySelectorAll(".plot")];
  const observer = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (isIntersecting) {
        observer.unobserve(target);
        draw(target);
      }
    }
  }, { rootMargin: "600px" });
  const isFar = (plot) => !plot.offsetWidth || plot.getBoundingClientRect().top > innerHeight + 600;
  for (const plot of plots) isFar(plot) ? observer.observe(plot) : draw(plot);
  dark.addEventListener("change", () => drawn.forEach(draw));
  addEventListener("beforeprint", () => {
    for (const fold of document.querySelectorAll("details")) fold.open = true; // paper cannot be unfolded
    plots.filter((plot) => !drawn.has(plot)).forEach(draw);
  });
})();
