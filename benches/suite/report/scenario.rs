//! Scenarios: what each one asks, which of its figures decide, and which pictures show them.
//!
//! ```text
//!  Scenario  "relay"            a question, and how to read the answer
//!    └─ Part  "bulk"            the cells of one variant: a table, a verdict for each figure that is judged
//!         └─ Chart              lines along a sweep, ratios, bars, percentiles
//! ```
//!
//! This is the report's only knowledge of what is measured. A scenario, a variant or a figure that is not here is still
//! shown; it is only less well explained.

/// What is measured, and why.
pub struct Scenario {
    pub name: &'static str,
    pub title: &'static str,
    pub question: &'static str,
    pub reading: &'static str,
    /// The first one also stands for variants that have none of their own.
    pub parts: &'static [Part],
}

/// One variant of a scenario.
pub struct Part {
    pub variant: &'static str,
    pub title: &'static str,
    /// What lies on the x axis: the first of these parameters that varies.
    pub sweep: &'static [&'static str],
    /// The figures that decide who wins.
    pub judged: &'static [&'static str],
    /// What else is in the table; figures that are named nowhere come after it.
    pub shown: &'static [&'static str],
    pub charts: &'static [Chart],
}

/// A picture; the title is the question that it answers.
pub enum Chart {
    /// Figures along the sweep.
    Lines { figures: &'static [&'static str], scale: Scale, title: &'static str },
    /// The paired ratios of one figure to the reference, along the sweep.
    Ratios { figure: &'static str, title: &'static str },
    /// A bar for each side.
    Bars { figures: &'static [&'static str], title: &'static str },
    /// Latency against the quantile.
    Percentiles { title: &'static str },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    Linear,
    Log,
}

use Chart::{Bars, Lines, Percentiles, Ratios};

const TIMERS: &[Chart] = &[
    Lines {
        figures: &["insert_ns", "reset_ns", "cancel_ns", "expire_ns"],
        scale: Scale::Log,
        title: "What does it cost to insert, move, cancel and expire a timer?",
    },
    Bars { figures: &["bytes_per_timer"], title: "How much memory does a timer take?" },
];

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "ping-pong",
        title: "Ping-pong: a closed loop",
        question: "How many messages a second does an echo answer, and how long does each take?",
        reading: "Every connection has one message on its way and sends the next when the last has come back. 98 % of \
                  the time is the kernel's, so the sides lie near each other, and the ratio to the floor is what \
                  remains of the library. A server that is not busy waits for its peers, so messages a second are theirs \
                  as well: with one connection, and with many, the generator's limit hides what a library costs, and the \
                  server's processor time a message shows it. The tail of a closed loop is shown and not judged: a \
                  server that stalls is asked nothing meanwhile. *Fixed rate* judges tails.",
        parts: &[Part {
            variant: "",
            title: "",
            sweep: &["connections", "depth"],
            judged: &["messages_per_second", "server_cpu_ns_per_message"],
            shown: &["server_busy_share", "latency_p50_ns", "latency_p99_ns", "latency_p999_ns", "starved_connections"],
            charts: &[
                Lines {
                    figures: &["messages_per_second"],
                    scale: Scale::Linear,
                    title: "How many messages a second does each side echo?",
                },
                Ratios { figure: "messages_per_second", title: "How near does each side come to the bare epoll loop?" },
                Lines {
                    figures: &["server_cpu_ns_per_message"],
                    scale: Scale::Log,
                    title: "What does a message cost the server?",
                },
                Percentiles { title: "How long does a message take, from the median to the worst?" },
            ],
        }],
    },
    Scenario {
        name: "round-trip",
        title: "Round trip: one connection",
        question: "How long is the way there and back, if nothing else is going on?",
        reading: "With one message on its way the server sleeps between two, and waking it is most of the time. A side \
                  that spins asks the kernel again instead of sleeping: it answers sooner, and uses its core alone. The \
                  generator spins here for all sides, so that its own sleep is not part of the way.",
        parts: &[Part {
            variant: "",
            title: "",
            sweep: &[],
            judged: &["latency_p50_ns"],
            shown: &["latency_p99_ns", "latency_p999_ns", "messages_per_second", "server_cpu_ns_per_message"],
            charts: &[
                Bars { figures: &["latency_p50_ns", "latency_p99_ns"], title: "How long is the way there and back?" },
                Percentiles { title: "How long is the way there and back, from the median to the worst?" },
            ],
        }],
    },
    Scenario {
        name: "fixed-rate",
        title: "Fixed rate: an open loop",
        question: "How long does a message take if the senders do not wait for the server?",
        reading: "Messages are due at fixed times, and latency counts from when a message was *due*, not from when it \
                  could be sent: a server that stalls is charged for everything that should have been sent meanwhile.",
        parts: &[Part {
            variant: "",
            title: "",
            sweep: &["rate", "connections"],
            judged: &["latency_p99_ns", "latency_p999_ns"],
            shown: &[
                "latency_p50_ns",
                "latency_max_ns",
                "messages_per_second",
                "messages_behind",
                "server_cpu_ns_per_message",
                "server_busy_share",
            ],
            charts: &[
                Lines {
                    figures: &["latency_p99_ns"],
                    scale: Scale::Log,
                    title: "How long do the slowest hundredth wait?",
                },
                Percentiles { title: "How long does a message take that was due, from the median to the worst?" },
            ],
        }],
    },
    Scenario {
        name: "frames",
        title: "Pipelined frames",
        question: "What does a handler cost that answers every frame by itself, when many arrive at once?",
        reading: "The handlers are naive: one send for each frame of 64 bytes. What differs is whether the library \
                  makes one write of them. *floor-gathered* and *tokio-buffered* do it by hand.",
        parts: &[Part {
            variant: "",
            title: "",
            sweep: &["depth", "connections"],
            judged: &["messages_per_second", "server_cpu_ns_per_message"],
            shown: &["server_busy_share", "latency_p50_ns", "latency_p99_ns"],
            charts: &[
                Lines {
                    figures: &["messages_per_second"],
                    scale: Scale::Log,
                    title: "Who gathers answers into one write?",
                },
                Percentiles { title: "How long does a batch of frames take?" },
            ],
        }],
    },
    Scenario {
        name: "relay",
        title: "Relay",
        question: "What does it cost to carry bytes from one connection to another?",
        reading: "Processor time a GiB is the honest figure for one stream: throughput also depends on the two ends, \
                  which share the other core. Over loopback it contains work of the receiver: who writes also carries \
                  the bytes through the protocol into the other socket, so a relay pays for the delivery to its sink, \
                  while the sender pays for the delivery to the relay. That is alike for all sides. Small ping-pongs are \
                  a closed loop: their tails are shown and not judged. A byte that is lost makes the measurement an error, \
                  and no row.",
        parts: &[
            Part {
                variant: "bulk",
                title: "One bulk stream",
                sweep: &[],
                judged: &["server_cpu_seconds_per_gib", "bytes_per_second"],
                shown: &["bytes_lost"],
                charts: &[Bars {
                    figures: &["server_cpu_seconds_per_gib", "bytes_per_second"],
                    title: "What does a relayed GiB cost, and how fast is it through?",
                }],
            },
            Part {
                variant: "pairs",
                title: "Small ping-pongs",
                sweep: &["connections", "pairs"],
                judged: &["messages_per_second", "server_cpu_ns_per_message"],
                shown: &["server_busy_share", "latency_p50_ns", "latency_p99_ns", "latency_p999_ns"],
                charts: &[
                    Lines {
                        figures: &["messages_per_second"],
                        scale: Scale::Linear,
                        title: "How many relayed round trips a second?",
                    },
                    Percentiles { title: "How long does a relayed round trip take?" },
                ],
            },
            Part {
                variant: "idle",
                title: "Few busy pairs among many idle ones",
                sweep: &[],
                judged: &["messages_per_second", "server_cpu_ns_per_message"],
                shown: &["server_busy_share", "latency_p50_ns", "latency_p99_ns", "latency_p999_ns"],
                charts: &[Percentiles { title: "Do idle pairs slow the busy ones?" }],
            },
            Part {
                variant: "slow",
                title: "A reader that stops",
                sweep: &[],
                judged: &["growth_bytes"],
                shown: &["accepted_while_stopped_bytes", "bytes_per_second", "bytes_lost"],
                charts: &[Bars {
                    figures: &["growth_bytes"],
                    title: "How much does the relay hold while its reader stands still?",
                }],
            },
        ],
    },
    Scenario {
        name: "fan-out",
        title: "Fan-out",
        question: "What does it cost to send one message to many, if one of them never reads?",
        reading: "A delivery is one message to one subscriber. Where several messages arrive at once, a library may \
                  make one write of them for each subscriber: then a delivery costs less than one write. *mio+sleeper* \
                  is mio with one subscriber more, who never reads; its rounds are neighbours of those without, so that \
                  the ratio to itself says what he costs the others.",
        parts: &[Part {
            variant: "",
            title: "",
            sweep: &["subscribers"],
            judged: &["server_cpu_ns_per_delivery", "deliveries_per_second"],
            shown: &["latency_p50_ns", "latency_p99_ns", "latency_p999_ns", "sleeper_bytes", "sleeper_missed_messages"],
            charts: &[
                Lines {
                    figures: &["server_cpu_ns_per_delivery"],
                    scale: Scale::Log,
                    title: "What does a delivery cost as subscribers are added?",
                },
                Lines {
                    figures: &["deliveries_per_second"],
                    scale: Scale::Linear,
                    title: "How many deliveries a second?",
                },
            ],
        }],
    },
    Scenario {
        name: "fairness",
        title: "Fairness",
        question: "How long do small requests wait beside bulk flows, and what does the bulk pay for it?",
        reading: "The two belong together: a server that serves the bulk last has good latencies and a bad throughput. \
                  Read both rows of pictures before calling one better. The small flows are a closed loop, so a stall \
                  counts once for each of them, on all sides alike: compare their tails with each other only.",
        parts: &[Part {
            variant: "",
            title: "",
            sweep: &[],
            judged: &["latency_p50_ns", "latency_p99_ns", "latency_p999_ns", "bytes_per_second"],
            shown: &["messages_per_second", "latency_max_ns", "server_cpu_seconds_per_gib", "starved_connections"],
            charts: &[
                Bars {
                    figures: &["latency_p50_ns", "latency_p99_ns", "latency_p999_ns", "bytes_per_second"],
                    title: "How long do the small ones wait, and how much bulk gets through?",
                },
                Percentiles { title: "How long does a small request take beside bulk flows?" },
            ],
        }],
    },
    Scenario {
        name: "storm",
        title: "Accept storm",
        question: "When everybody connects at once, how soon is everybody served?",
        reading: "All connections begin together, each says one message, and the time runs until its answer is back.",
        parts: &[Part {
            variant: "",
            title: "",
            sweep: &["connections"],
            judged: &["connections_per_second", "connect_p99_ns"],
            shown: &["latency_p50_ns", "server_cpu_ns_per_connection"],
            charts: &[Lines {
                figures: &["connections_per_second"],
                scale: Scale::Linear,
                title: "How many of those who come at once are served a second?",
            }],
        }],
    },
    Scenario {
        name: "churn",
        title: "Connection churn",
        question: "What does a short connection cost: accept, one message, close?",
        reading: "Most of it is the kernel's: making and unmaking sockets. What a library adds is in the exact counts.",
        parts: &[Part {
            variant: "",
            title: "",
            sweep: &["connections"],
            judged: &["connections_per_second", "server_cpu_ns_per_connection"],
            shown: &["latency_p50_ns", "connect_p99_ns"],
            charts: &[Bars {
                figures: &["connections_per_second", "server_cpu_ns_per_connection"],
                title: "How many short connections a second, and at what cost?",
            }],
        }],
    },
    Scenario {
        name: "memory",
        title: "Idle memory",
        question: "How much memory does an idle connection hold, and how much is given back when it is gone?",
        reading: "What the kernel has given to the process for itself, for each connection that is open and has \
                  exchanged one message. After the close it is what the process still keeps for each of the peak.",
        parts: &[
            Part {
                variant: "idle",
                title: "Connections",
                sweep: &["connections"],
                judged: &["bytes_per_connection", "bytes_per_connection_after_close"],
                shown: &["bytes_per_connection_after_one_more"],
                charts: &[Bars {
                    figures: &["bytes_per_connection", "bytes_per_connection_after_close"],
                    title: "How much memory does an idle connection hold?",
                }],
            },
            Part {
                variant: "pairs",
                title: "Relayed pairs",
                sweep: &["pairs"],
                judged: &["bytes_per_pair", "bytes_per_pair_after_close"],
                shown: &["bytes_per_pair_after_one_more"],
                charts: &[Bars {
                    figures: &["bytes_per_pair", "bytes_per_pair_after_close"],
                    title: "How much memory does an idle relayed pair hold?",
                }],
            },
        ],
    },
    Scenario {
        name: "timers",
        title: "Timers",
        question: "What do inserting, moving, cancelling and expiring a timer cost, up to a million of them?",
        reading: "In one process, on one thread, without sockets. In order, memory is walked through as it lies, and \
                  this is the price of the instructions. At random a million timers fit no cache, and this is the \
                  price of the lines of memory that an operation touches. A program lies between.",
        parts: &[
            Part {
                variant: "in-order",
                title: "In order",
                sweep: &["timers"],
                judged: &["insert_ns", "reset_ns", "cancel_ns", "expire_ns", "bytes_per_timer"],
                shown: &[],
                charts: TIMERS,
            },
            Part {
                variant: "at-random",
                title: "At random",
                sweep: &["timers"],
                judged: &["insert_ns", "reset_ns", "cancel_ns", "expire_ns", "bytes_per_timer"],
                shown: &[],
                charts: TIMERS,
            },
            Part {
                variant: "keyed",
                title: "Timers of connections",
                sweep: &["timers"],
                judged: &["insert_ns", "reset_ns", "cancel_ns", "bytes_per_timer"],
                shown: &[],
                charts: &[],
            },
        ],
    },
    Scenario {
        name: "wake-ups",
        title: "Wake-ups across threads",
        question: "What does it cost to hand work to the loop from another thread?",
        reading: "A loop that sleeps has to be woken, and this is most of a round trip. In a burst the loop is awake for \
                  nearly all, and what remains is the queue between the threads.",
        parts: &[
            Part {
                variant: "ping-pong",
                title: "There and back",
                sweep: &[],
                judged: &["round_trip_ns"],
                shown: &[],
                charts: &[Bars { figures: &["round_trip_ns"], title: "How long is the way to the loop and back?" }],
            },
            Part {
                variant: "one-way",
                title: "To a loop that sleeps",
                sweep: &[],
                judged: &["latency_p50_ns", "latency_p99_ns"],
                shown: &["latency_p999_ns", "latency_max_ns"],
                charts: &[Percentiles { title: "How soon does a sleeping loop take up what was posted?" }],
            },
            Part {
                variant: "burst",
                title: "Many at once",
                sweep: &["posts"],
                judged: &["posts_per_second"],
                shown: &[],
                charts: &[Bars {
                    figures: &["posts_per_second"],
                    title: "How many posts a second does the loop take?",
                }],
            },
        ],
    },
    Scenario {
        name: "counts",
        title: "Exact counts",
        question: "How many instructions and system calls of the server's own does each piece of work take?",
        reading: "Two runs that differ in nothing but length; what the longer one did more is divided by what it \
                  counted more. These figures do not depend on the mood of the machine (only those of a relayed stream \
                  do, since it depends on the moment how many bytes a read finds), and are the honest measure \
                  of a library where the kernel takes 98 % of the time. Instructions are those in user space; \
                  epoll_wait is no part of the system calls, since one wait serves many events.",
        parts: &[
            Part {
                variant: "message",
                title: "A message",
                sweep: &[],
                judged: &["instructions_per_message"],
                shown: &[],
                charts: &[Bars {
                    figures: &["instructions_per_message"],
                    title: "How many instructions does a message take?",
                }],
            },
            Part {
                variant: "calls",
                title: "System calls of a message",
                sweep: &[],
                judged: &["system_calls_per_message"],
                shown: &[],
                charts: &[Bars {
                    figures: &["system_calls_per_message"],
                    title: "How many system calls does a message take, beside epoll_wait?",
                }],
            },
            Part {
                variant: "connection",
                title: "A connection",
                sweep: &[],
                judged: &["instructions_per_connection", "system_calls_per_connection"],
                shown: &[],
                charts: &[Bars {
                    figures: &["instructions_per_connection", "system_calls_per_connection"],
                    title: "What does a connection take: accept, echo, close?",
                }],
            },
            Part {
                variant: "round-trip",
                title: "A relayed round trip",
                sweep: &[],
                judged: &["instructions_per_round_trip"],
                shown: &[],
                charts: &[Bars {
                    figures: &["instructions_per_round_trip"],
                    title: "How many instructions does a relayed round trip take?",
                }],
            },
            Part {
                variant: "relay-bulk",
                title: "A relayed stream",
                sweep: &[],
                judged: &["system_calls_per_mib"],
                shown: &[],
                charts: &[Bars {
                    figures: &["system_calls_per_mib"],
                    title: "How many system calls does a relayed MiB take, beside epoll_wait?",
                }],
            },
            Part {
                variant: "fan-out",
                title: "A delivery",
                sweep: &[],
                judged: &["writes_per_delivery"],
                shown: &[],
                charts: &[Bars {
                    figures: &["writes_per_delivery"],
                    title: "How many writes does a delivery take, if messages come in bursts?",
                }],
            },
        ],
    },
];

/// For scenarios that nobody has described.
pub const UNKNOWN: Scenario = Scenario {
    name: "",
    title: "",
    question: "",
    reading: "",
    parts: &[Part {
        variant: "",
        title: "",
        sweep: &["connections", "subscribers", "depth", "pairs", "timers"],
        judged: &[],
        shown: &[],
        charts: &[],
    }],
};
