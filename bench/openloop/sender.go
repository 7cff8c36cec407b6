package main

import (
	"math"
	"math/rand"
	"strings"
	"time"
)

// call is one call between its intended start and its end.
type call struct {
	phase    int
	intended time.Duration // since the start of the program
	deadline time.Duration
}

// backlogMax bounds the calls of a flow that wait for a stream; beyond it the oldest are given up.
const backlogMax = 1 << 20

const tick = time.Millisecond

// redialAfter is how long a connection that was lost is missed.
const redialAfter = 200 * time.Millisecond

// sender offers the calls of one flow.
type sender struct {
	flow     *Flow
	phases   []Phase
	starts   []time.Duration // of the phases, from begin
	tallies  []*tally
	clock    func() time.Duration
	chance   *rand.Rand
	conns    []*conn
	redialed chan redialed
	backlog  []call
	head     int
	next     int // connection
	begin    time.Duration
	// of the throttle: calls wanted and calls accepted, both forgotten by and by
	wanted, accepted float64
	forgotten        time.Duration
}

// As in clients/throttle.py, which says why.
const (
	forgetS    = 1.0
	refusedMin = 10
)

// holdsBack decides whether a call is not sent at all: client-side throttling of "Handling Overload", Site Reliability
// Engineering (Google 2016).
func (s *sender) holdsBack() bool {
	if s.flow.Throttle == 0 {
		return false
	}
	mu.Lock()
	defer mu.Unlock()
	now := s.clock()
	fade := math.Exp(-(now - s.forgotten).Seconds() / forgetS)
	s.forgotten = now
	s.wanted = s.wanted*fade + 1
	s.accepted *= fade
	return s.chance.Float64() < (s.wanted-s.flow.Throttle*s.accepted-refusedMin)/(s.wanted+1)
}

func newSender(flow *Flow, phases []Phase, seed int64, clock func() time.Duration) (*sender, error) {
	s := &sender{
		flow: flow, phases: phases, clock: clock, chance: rand.New(rand.NewSource(seed)),
		redialed: make(chan redialed, flow.Connections*len(flow.Targets)),
	}
	at := time.Duration(0)
	for _, phase := range phases {
		s.starts = append(s.starts, at)
		s.tallies = append(s.tallies, &tally{phase: phase, outcomes: map[string]int{}})
		at += seconds(phase.Seconds)
	}
	s.starts = append(s.starts, at)
	for i := 0; i < flow.Connections; i++ {
		for _, target := range flow.Targets {
			c, err := dial(target, flow, s, s.chance.Int63())
			if err != nil {
				return nil, err
			}
			s.conns = append(s.conns, c)
		}
	}
	return s, nil
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// run offers everything and returns when every call has ended.
func (s *sender) run(begin time.Duration) error {
	s.begin = begin
	for phase := range s.phases {
		rate := s.flow.Rate
		if !s.flow.Steady {
			rate *= s.phases[phase].Times
		}
		from, to := begin+s.starts[phase], begin+s.starts[phase+1]
		arrival := from
		for now := s.clock(); now < to; now = s.clock() {
			if s.flow.Closed > 0 {
				for s.inFlight()+len(s.backlog)-s.head < s.flow.Closed {
					s.arrive(phase, s.clock())
					s.send()
				}
			} else if rate > 0 {
				for arrival <= now && arrival < to {
					s.arrive(phase, arrival)
					arrival += time.Duration(s.chance.ExpFloat64() / rate * float64(time.Second))
				}
			}
			s.turn(now)
			time.Sleep(tick)
		}
		// what was due in the last moments, however late this program is
		for s.flow.Closed == 0 && rate > 0 && arrival < to {
			s.arrive(phase, arrival)
			arrival += time.Duration(s.chance.ExpFloat64() / rate * float64(time.Second))
		}
	}
	end := s.clock() + time.Duration(s.flow.DeadlineMS)*time.Millisecond + time.Second
	for s.clock() < end && (s.inFlight() > 0 || s.head < len(s.backlog)) {
		s.turn(s.clock())
		time.Sleep(tick)
	}
	for _, c := range s.conns {
		c.close()
	}
	return nil
}

func (s *sender) arrive(phase int, at time.Duration) {
	s.tallies[phase].offer(at-s.begin-s.starts[phase], s.clock()-at)
	if s.holdsBack() {
		s.end(call{phase, at, at}, held, at)
		return
	}
	deadline := at + time.Duration(s.flow.DeadlineMS)*time.Millisecond
	s.backlog = append(s.backlog, call{phase, at, deadline})
}

// turn sends what can be sent and gives up what is past its deadline.
func (s *sender) turn(now time.Duration) {
	for s.head < len(s.backlog) {
		if c := s.backlog[s.head]; c.deadline > now && len(s.backlog)-s.head <= backlogMax {
			break
		}
		s.end(s.backlog[s.head], unsent, now)
		s.head++
	}
	s.send()
	for i, c := range s.conns {
		c.expire(now)
		c.flush()
		if c.isLost() && !c.redialing {
			c.redialing = true
			go s.redial(i, c.target, s.chance.Int63())
		}
	}
	for {
		select {
		case made := <-s.redialed:
			s.conns[made.place] = made.conn
			continue
		default:
		}
		break
	}
}

// redialed is a connection in place of one that was lost.
type redialed struct {
	place int
	conn  *conn
}

// redial connects again until it succeeds, as a channel does.
func (s *sender) redial(place int, target string, seed int64) {
	for {
		time.Sleep(redialAfter)
		if c, err := dial(target, s.flow, s, seed); err == nil {
			s.redialed <- redialed{place, c}
			return
		}
	}
}

func (s *sender) send() {
	for s.head < len(s.backlog) {
		placed := false
		for range s.conns {
			c := s.conns[s.next]
			s.next = (s.next + 1) % len(s.conns)
			if c.put(s.backlog[s.head], s.clock()) {
				placed = true
				break
			}
		}
		if !placed {
			break
		}
		s.head++
	}
	if s.head > 4096 && s.head*2 > len(s.backlog) {
		s.backlog = append(s.backlog[:0], s.backlog[s.head:]...)
		s.head = 0
	}
	if s.flow.Closed > 0 {
		for _, c := range s.conns {
			c.flush()
		}
	}
}

func (s *sender) inFlight() int {
	total := 0
	for _, c := range s.conns {
		total += c.inFlight()
	}
	return total
}

// end counts a call; the caller holds whatever guards the tallies: GOMAXPROCS is 1, and mu below.
func (s *sender) end(c call, outcome string, now time.Duration) {
	mu.Lock()
	defer mu.Unlock()
	if outcome != unsent && outcome != timeout && outcome != held && outcome != lost &&
		!strings.HasPrefix(outcome, "RESOURCE_EXHAUSTED") {
		s.accepted++
	}
	if outcome == "OK" && now > c.deadline {
		outcome = late
	}
	s.tallies[c.phase].end(c.intended-s.begin-s.starts[c.phase], outcome, now-c.intended)
}
