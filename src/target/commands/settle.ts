/** For Admin commands that take several turns: finishes the request with what the work comes to. */
import { assert } from '../../util/assert.ts';
import type { Request } from '../request.ts';

/** @param work resolves with a status; an exception is a bug of ours, and ends the association */
export function settle(request: Request, work: Promise<number>): void {
  request.retain(); // this turn's receive buffer is gone when it ends
  work.then(
    (status) => request.finish(status),
    (error: unknown) => {
      const { controller } = request.queuePair;
      assert(controller !== undefined, 'A command without controller took several turns');
      controller.fatal(error);
      request.queuePair.release(request);
    },
  );
}
