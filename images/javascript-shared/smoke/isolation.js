// What a program breaks, it breaks for itself: the next execution still works.
//%%
globalThis.console = undefined; delete globalThis.process; globalThis.Promise = null; Math.random = 1;
'gone'
//%%
Array.prototype.push = () => { throw new Error('tampered'); }; JSON.stringify = () => '{"broken":'; 1 + 1
//%%
await null; 'await needs no global Promise'
//%%
Object.prototype.polluted = 'yes'; throw new Error('still described');
//%%
undefined
