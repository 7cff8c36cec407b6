// Command openloop offers calls at a pace of its own, whether or not the ones before have been answered.
//
// Every call has an intended start, drawn from a Poisson process before anything is sent, and its latency counts from
// there: neither a stall of the server nor one of this program can hide waiting (coordinated omission, G. Tene). It
// speaks just enough HTTP/2 for unary gRPC calls, so that it can offer several times what the service can do from a
// part of a core: requests differ in stream, deadline, request id and customer only, and answers are told apart by the
// bytes of their trailers, which the server is asked not to compress against earlier ones.
//
// A plan is read from standard input as JSON, what came of it is written to standard output as JSON.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"time"
)

// Plan says what to offer, phase after phase.
type Plan struct {
	Seed   int64   `json:"seed"`
	Flows  []Flow  `json:"flows"`
	Phases []Phase `json:"phases"`
}

// Phase is a part of the time.
type Phase struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
	// Times multiplies the rate of the flows that are not steady.
	Times float64 `json:"times"`
}

// Flow is one kind of caller, with connections of its own.
type Flow struct {
	Name        string      `json:"name"`
	Targets     []string    `json:"targets"`
	Connections int         `json:"connections"` // for each target
	Path        string      `json:"path"`
	Metadata    [][2]string `json:"metadata"`
	Rate        float64     `json:"rate"`   // calls a second at Times 1
	Steady      bool        `json:"steady"` // the rate is the same in every phase
	Closed      int         `json:"closed"` // when not 0: so many calls under way at any time, whatever the rate
	DeadlineMS  int         `json:"deadline_ms"`
	Throttle    float64     `json:"throttle"`      // when not 0: callers hold back as clients/throttle.py does, with this K
	Message     []byte      `json:"message"`       // of one call
	RequestIDAt int         `json:"request_id_at"` // where its 36 characters are; negative: none
	CustomerAt  int         `json:"customer_at"`   // where five digits of a customer are; negative: none
	Customers   int         `json:"customers"`
}

func main() {
	runtime.GOMAXPROCS(1) // it is to take a part of one core, and to leave the others to whom it calls
	var plan Plan
	if err := json.NewDecoder(os.Stdin).Decode(&plan); err != nil {
		fail(err)
	}
	started := time.Now()
	clock := func() time.Duration { return time.Since(started) }
	done := make(chan error, len(plan.Flows))
	senders := make([]*sender, len(plan.Flows))
	for i := range plan.Flows {
		s, err := newSender(&plan.Flows[i], plan.Phases, plan.Seed+int64(i), clock)
		if err != nil {
			fail(err)
		}
		senders[i] = s
	}
	begin := clock() + 50*time.Millisecond
	for _, s := range senders {
		go func(s *sender) { done <- s.run(begin) }(s)
	}
	for range senders {
		if err := <-done; err != nil {
			fail(err)
		}
	}
	var used syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &used)
	out := map[string]any{
		"cpu_s": time.Duration(used.Utime.Nano() + used.Stime.Nano()).Seconds(),
	}
	flows := map[string]any{}
	for _, s := range senders {
		flows[s.flow.Name] = s.tallies
	}
	out["flows"] = flows
	if err := json.NewEncoder(os.Stdout).Encode(out); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "openloop:", err)
	os.Exit(1)
}
