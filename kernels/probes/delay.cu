// Delay: keeps the GPU busy while the processor queues what is to be timed.
//
// What it does    One thread, a chain of steps that each wait for the one before (Marsaglia's xorshift).
// What it is for  A kernel of a few microseconds is over before Python has launched the next one. Behind a delay all of
//                 them wait in the queue, and then run with nothing in between.
// How to run it   grid = 1, block = 1
//
// run: delay<<<1, 1>>>(result=unsigned[1], steps=100)
__global__ void delay(unsigned* result, int steps) {
    unsigned state = 1u;
    for (int i = 0; i < steps; ++i) {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
    }
    *result = state;
}
