// Grafana publishes its schema as types: this writes the dashboards down as TypeScript, for the compiler to check.
// What is wrong in a dashboard, as a field that Grafana does not know or a value of the wrong type, does not compile.
//
// node make.js DASHBOARDS_DIR > check.ts && tsc --noEmit --strict --skipLibCheck --module esnext --moduleResolution bundler check.ts
'use strict';
const fs = require('fs');
const path = require('path');

const dir = process.argv[2];
const raw = './node_modules/@grafana/schema/dist/types/raw';
const kinds = ['heatmap', 'stat', 'table', 'timeseries'];

const out = [
  `import type {AnnotationQuery, Dashboard, Panel, RowPanel} from '${raw}/dashboard/x/types.gen';`,
  ...kinds.map((kind) => `import type {Options as ${kind}} from '${raw}/composable/${kind}/panelcfg/x/types.gen';`),
  // JSON has the values of enumerators, not their names, and leaves out what has a default.
  `type Json<T> = T extends string ? \`\${T}\` : T extends (infer U)[] ? Json<U>[]
    : T extends object ? {[K in keyof T]?: Json<T[K]>} : T;`,
];
let n = 0;
const check = (type, value) => out.push(`export const v${n++}: Json<${type}> = ${JSON.stringify(value, null, 1)};`);

for (const file of fs.readdirSync(dir).filter((name) => name.endsWith('.json')).sort()) {
  const {panels, annotations, ...dashboard} = JSON.parse(fs.readFileSync(path.join(dir, file)));
  check('Dashboard', dashboard);
  for (const annotation of annotations.list) {
    // These are the data source's own, and not in Grafana's schema.
    const {expr, step, titleFormat, textFormat, ...rest} = annotation;
    check('AnnotationQuery', rest);
  }
  for (const panel of panels) {
    if (panel.type === 'row') {
      check('RowPanel', panel);
      continue;
    }
    if (!kinds.includes(panel.type)) throw new Error(`${file}: no types for panels of kind ${panel.type}`);
    check('Panel', panel);
    check(panel.type, panel.options);
  }
}
console.log(out.join('\n'));
