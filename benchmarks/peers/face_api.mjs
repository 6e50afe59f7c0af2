// face-api (npm @vladmandic/face-api, its age network alone), asked as benchmarks/peers.py asks: node face_api.mjs FOLDER [MARGIN]
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const require = createRequire(join(process.cwd(), "node_modules", "here.js"));
const tf = require("@tensorflow/tfjs");
require("@tensorflow/tfjs-backend-wasm");
const faceapi = require("@vladmandic/face-api/dist/face-api.node-wasm.js");
const sharp = require("sharp");

const [folder, margin = "0"] = process.argv.slice(2); // of the box's longer side, on each side: more makes it worse
await tf.setBackend("wasm");
await tf.ready();
await faceapi.nets.ageGenderNet.loadFromDisk(join(require.resolve("@vladmandic/face-api/package.json"), "..", "model"));
for (const [name, [left, top, right, bottom]] of Object.entries(JSON.parse(readFileSync(join(folder, "boxes.json"))))) {
  const { data, info } = await sharp(join(folder, name)).removeAlpha().raw().toBuffer({ resolveWithObject: true });
  const more = Math.round(margin * Math.max(right - left, bottom - top));
  const x = Math.max(0, left - more), y = Math.max(0, top - more);
  const width = Math.min(info.width, right + more) - x, height = Math.min(info.height, bottom + more) - y;
  const whole = tf.tensor3d(data, [info.height, info.width, 3], "int32");
  const face = whole.slice([y, x, 0], [height, width, 3]);
  const { age } = await faceapi.nets.ageGenderNet.predictAgeAndGender(face);
  tf.dispose([whole, face]);
  console.log(JSON.stringify({ name, age }));
}
