// PSNR and SSIM of a part of a picture, on the luminance (BT.601), as the metrics of this project measure them.

const WINDOW = 11; // side of SSIM's Gaussian window, sigma 1.5
const TAPS = gaussian();

function gaussian() {
  const taps = Array.from({ length: WINDOW }, (_, index) => Math.exp(-((index - 5) ** 2) / (2 * 1.5 ** 2)));
  const sum = taps.reduce((total, tap) => total + tap, 0);
  return taps.map((tap) => tap / sum);
}

/** Y in [16, 235] of the pixels of a canvas; null where the browser does not let them be read (a file beside the page). */
function luma(canvas) {
  let pixels;
  try {
    pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  } catch (error) {
    if (error.name === "SecurityError") return null;
    throw error;
  }
  const plane = new Float64Array(pixels.length / 4);
  for (let i = 0, at = 0; i < plane.length; i++, at += 4) {
    plane[i] = 16 + (65.481 * pixels[at] + 128.553 * pixels[at + 1] + 24.966 * pixels[at + 2]) / 255;
  }
  return { plane, width: canvas.width, height: canvas.height };
}

/** PSNR in dB of two planes of one size; Infinity where they are equal. */
function psnr(a, b) {
  let sum = 0;
  for (let i = 0; i < a.plane.length; i++) sum += (a.plane[i] - b.plane[i]) ** 2;
  return 10 * Math.log10(255 ** 2 / (sum / a.plane.length));
}

/** Mean SSIM over the places that the window covers; null where the part is smaller than it. */
function ssim(a, b) {
  const { width, height } = a;
  if (width < WINDOW || height < WINDOW) return null;
  const filtered = (values) => blur(values, width, height);
  const product = (x, y) => x.map((value, index) => value * y[index]);
  const [meanA, meanB] = [filtered(a.plane), filtered(b.plane)];
  const [squareA, squareB, both] = [filtered(product(a.plane, a.plane)), filtered(product(b.plane, b.plane)), filtered(product(a.plane, b.plane))];
  const [c1, c2] = [(0.01 * 255) ** 2, (0.03 * 255) ** 2];
  let sum = 0;
  for (let i = 0; i < meanA.length; i++) {
    const [aa, bb, ab] = [meanA[i] ** 2, meanB[i] ** 2, meanA[i] * meanB[i]];
    sum += ((2 * ab + c1) * (2 * (both[i] - ab) + c2)) / ((aa + bb + c1) * (squareA[i] - aa + squareB[i] - bb + c2));
  }
  return sum / meanA.length;
}

/** The plane filtered along rows, then columns; only places that the window covers fully. */
function blur(plane, width, height) {
  const wide = width - WINDOW + 1;
  const rows = new Float64Array(wide * height);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < wide; x++) {
      let sum = 0;
      for (let k = 0; k < WINDOW; k++) sum += TAPS[k] * plane[y * width + x + k];
      rows[y * wide + x] = sum;
    }
  }
  const result = new Float64Array(wide * (height - WINDOW + 1));
  for (let i = 0; i < result.length; i++) {
    let sum = 0;
    for (let k = 0; k < WINDOW; k++) sum += TAPS[k] * rows[i + k * wide];
    result[i] = sum;
  }
  return result;
}
