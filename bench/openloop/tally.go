package main

import (
	"encoding/json"
	"math"
	"time"
)

// Outcomes that no server speaks of.
const (
	unsent  = "UNSENT"  // the deadline passed while the call waited for a stream: the server never saw it
	timeout = "TIMEOUT" // sent, and not answered by the deadline; cancelled then
	late    = "LATE"    // answered OK, after the deadline
	lost    = "LOST"    // the connection broke
	reset   = "RESET"   // the server reset the stream
	held    = "HELD"    // the caller held it back, because most of its calls were refused lately
)

const perOctave = 32

// tally is what came of the calls whose intended start lies in one phase.
type tally struct {
	phase    Phase
	offered  int
	outcomes map[string]int
	buckets  [30 * perOctave]int // of latencies of calls answered OK in time: from 1 us, 32 to an octave
	refused  [30 * perOctave]int // of those answered otherwise
	behind   [30 * perOctave]int // how long after its intended start a call was looked at first
	slices   []slice
}

// slice is one second of a phase, by intended start.
type slice struct {
	Offered int `json:"offered"`
	OK      int `json:"ok"`
}

func (t *tally) slice(at time.Duration) *slice {
	i := int(at / time.Second)
	for len(t.slices) <= i {
		t.slices = append(t.slices, slice{})
	}
	return &t.slices[i]
}

func (t *tally) offer(at, behind time.Duration) {
	t.offered++
	t.behind[bucket(behind)]++
	t.slice(at).Offered++
}

// end counts a call that was meant to start at so much into the phase.
func (t *tally) end(at time.Duration, outcome string, took time.Duration) {
	t.outcomes[outcome]++
	if outcome == "OK" {
		t.slice(at).OK++
		t.buckets[bucket(took)]++
	} else if outcome != unsent && outcome != timeout && outcome != held {
		t.refused[bucket(took)]++
	}
}

func bucket(took time.Duration) int {
	us := float64(took) / float64(time.Microsecond)
	if us < 1 {
		return 0
	}
	return min(int(math.Log2(us)*perOctave), 30*perOctave-1)
}

func quantiles(buckets []int) map[string]float64 {
	total := 0
	for _, n := range buckets {
		total += n
	}
	out := map[string]float64{}
	if total == 0 {
		return out
	}
	for name, q := range map[string]float64{"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999, "max": 1} {
		rank, seen := int(math.Ceil(q*float64(total))), 0
		for i, n := range buckets {
			if seen += n; seen >= rank {
				out[name] = math.Exp2(float64(i+1)/perOctave) / 1000
				break
			}
		}
	}
	return out
}

// MarshalJSON writes counts, latencies in milliseconds and the slices.
func (t *tally) MarshalJSON() ([]byte, error) {
	return json.Marshal(map[string]any{
		"phase":      t.phase.Name,
		"times":      t.phase.Times,
		"seconds":    t.phase.Seconds,
		"offered":    t.offered,
		"outcomes":   t.outcomes,
		"ok_ms":      quantiles(t.buckets[:]),
		"refused_ms": quantiles(t.refused[:]),
		"behind_ms":  quantiles(t.behind[:]),
		"slices":     t.slices,
	})
}
