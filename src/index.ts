/** Everything public: the target, the initiator; the wire formats are apart, in `nvmeferry/wire`. */
export * from './initiator.ts';
export * from './target.ts';
