/* The choice of a model, filled from the server and remembered.

   In:  select boxes.
   Out: their names of models.
   Does not know: what a model is asked. */

import { listModels } from "./api.js";
import { askForKey } from "./dialogs.js";
import { recall, remember } from "./memory.js";
import { make } from "./nodes.js";

/** Fill every box; `preferred(names, place)` is chosen where nothing is remembered. Asks for the key where needed. */
export async function fillModels(boxes, preferred) {
  const names = await namesWithKey();
  for (const [place, box] of boxes.entries()) {
    box.replaceChildren(...names.map((name) => make("option", { value: name }, name)));
    const before = recall(`model.${box.id}`);
    box.value = names.includes(before) ? before : preferred(names, place);
    box.onchange = () => remember(`model.${box.id}`, box.value);
  }
}

async function namesWithKey() {
  for (;;) {
    try {
      return await listModels();
    } catch (error) {
      if (error.kind !== "key" || !(await askForKey())) throw error;
    }
  }
}
