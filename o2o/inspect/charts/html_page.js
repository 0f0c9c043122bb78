"use strict";
// Draws each chart when it comes near the window, in the colors that the reader's system asks for.
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const touch = matchMedia("(pointer: coarse)").matches;
  const inTheDark = JSON.parse(document.getElementById("dark").textContent);
  const config = {
    displaylogo: false,
    displayModeBar: touch ? false : "hover",
    responsive: true,
    scrollZoom: false, // the wheel scrolls the page
    showSendToCloud: false, // nobody's data leave this page
  };
  const buttons = {
    flat: [["toImage"], ["zoom2d", "pan2d", "resetScale2d"]],
    deep: [["toImage"], ["orbitRotation", "zoom3d", "pan3d", "resetCameraDefault3d"]],
  };
  const drawn = new Set();

  function draw(place) {
    let text = place.nextElementSibling.textContent;
    if (dark.matches) {
      for (const [light, other] of inTheDark) text = text.replaceAll(light, other);
    }
    const figure = JSON.parse(text);
    const kind = figure.layout.scene ? "deep" : "flat";
    if (touch && kind === "flat") figure.layout.dragmode = false; // a finger scrolls the page
    drawn.add(place);
    Plotly.react(place, figure.data, figure.layout, { ...config, modeBarButtons: buttons[kind] });
  }

  const places = [...document.querySelectorAll(".plot")];
  const near = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (isIntersecting) {
        near.unobserve(target);
        draw(target);
      }
    }
  }, { rootMargin: "600px" });
  const far = (place) => place.getBoundingClientRect().top > innerHeight + 600;
  for (const place of places) far(place) ? near.observe(place) : draw(place);
  dark.addEventListener("change", () => drawn.forEach(draw));
  addEventListener("beforeprint", () => places.filter((place) => !drawn.has(place)).forEach(draw));
})();
