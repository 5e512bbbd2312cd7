// Built-in modules, files of the workspace as modules, and what is missing.
//%%
import fs, { writeFileSync as write } from 'fs';
import * as path from "node:path"; // a comment
import { EOL } from 'os'
import 'assert';
write('lib.mjs', `import { basename } from 'path';\nexport const value = 42;\nexport default function hello(n) { return 'hello ' + basename(n); }\nexport { here } from './other.mjs';\n`);
write('other.mjs', 'export const here = import.meta.filename; export let count = 0; count += 1; export const dir = import.meta.dirname;');
write('common.js', `const { join } = require('path'); module.exports = { up: join('a', '..'), file: __filename, self: () => require('./common').up, data: require('./data.json') };`);
write('data.json', '{"n": [1, 2]}'); write('broken.mjs', 'export const x = ;'); write('throws.js', 'null.x;'); write('esm.js', 'export const esm = true;'); write('cycle-a.js', `exports.early = 1; exports.b = require('./cycle-b'); `); write('cycle-b.js', `exports.sees = require('./cycle-a').early;`);
console.log(typeof fs.readFileSync, path.sep, JSON.stringify(EOL));
//%%
import hello, { value, here } from './lib.mjs';
console.log(hello('/x/world'), value, here);
const again = await import('./lib.mjs?v=2'); console.log(again.value, Object.keys(again), again);
//%%
const common = require('./common'); console.log(common.up, common.file, common.self(), common.data, require('./common.js') === common);
console.log(require('./cycle-a'), (await import('./common.js')).default.up, (await import('./esm.js')).esm, (await import('./data.json', { with: { type: 'json' } })).default);
//%%
import data from './data.json' with { type: 'json' };
data
//%%
const failures = ['./nope', 'left-pad', 'node:http', 'child_process', 'worker_threads', './broken.mjs', './lib.mjs', 'node:nothing'];
for (const name of failures) { try { require(name); console.log('loaded', name); } catch (error) { console.log(name, '|', error.name, error.code, '|', error.message); } }
for (const name of ['./nope.mjs', 'express', 'net', './broken.mjs']) await import(name).catch((error) => console.log(name, '|', error.name, error.code, '|', error.message));
//%%
require('./throws.js')
//%%
await fetch('https://example.org')
//%%
new WebSocket('wss://example.org')
//%%
console.log(typeof Intl, typeof WebSocket); new Intl.NumberFormat('en').format(1)
//%%
const { promisify, inspect, isDeepStrictEqual, types, inherits } = require('util'); const assert = require('node:assert'); const EventEmitter = require('events'); const os = require('os');
console.log(await promisify((a, callback) => callback(null, a * 2))(21), isDeepStrictEqual({ a: [1, new Map([[1, { b: 2 }]])] }, { a: [1, new Map([[1, { b: 2 }]])] }), types.isPromise(Promise.resolve()), os.EOL === '\n', os.platform());
assert(true); assert.equal(1, '1'); assert.strictEqual(1, 1); assert.deepStrictEqual({ a: [1] }, { a: [1] }); assert.throws(() => { throw new TypeError('x'); }, TypeError); assert.throws(() => { throw new Error('abc'); }, /abc/); await assert.rejects(Promise.reject(new Error('r')), { message: 'r' });
for (const attempt of [() => assert(0), () => assert.strictEqual(1, 2, 'custom'), () => assert.deepEqual({ a: 1 }, { a: 2 }), () => assert.throws(() => {}), () => assert.deepStrictEqual([1], ['1'])]) { try { attempt(); } catch (error) { console.log(error.name, error.code, JSON.stringify(error.message)); } }
const emitter = new EventEmitter(); emitter.on('x', (...a) => console.log('on', a)); emitter.once('x', () => console.log('once')); emitter.emit('x', 1, 2); emitter.emit('x'); console.log(emitter.listenerCount('x'), emitter.emit('y'), emitter.eventNames());
class Store extends EventEmitter { constructor() { super(); this.items = []; } } const store = new Store(); setTimeout(() => store.emit('ready', 'now'), 1); console.log(await EventEmitter.once(store, 'ready')); try { store.emit('error', new Error('unheard')); } catch (error) { console.log(error.message); }
