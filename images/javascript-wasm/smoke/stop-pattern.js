// A pattern that takes for ever is stopped like everything else.
//%%
let kept = 'kept';
//%% { timeout_ms = 100 }
/^(a+)+$/.test('a'.repeat(40) + 'b')
//%%
kept
