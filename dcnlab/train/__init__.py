"""Training of InternImage: data, optimiser, the loop, and several processes that train one model together."""
