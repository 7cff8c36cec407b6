package main

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http2/hpack"
)

// mu guards all tallies.
var mu sync.Mutex

const (
	frameData         = 0
	frameHeaders      = 1
	frameReset        = 3
	frameSettings     = 4
	framePing         = 6
	frameGoAway       = 7
	frameWindowUpdate = 8
	frameContinuation = 9

	flagEndStream  = 1
	flagEndHeaders = 4

	streamsMax = 1 << 14 // under way on one connection; a power of two
	window     = 1 << 30
	statusMax  = 4096 // answers whose trailers are remembered
)

// conn is one HTTP/2 connection. One goroutine sends, another one reads.
type conn struct {
	flow   *Flow
	sender *sender
	socket net.Conn
	target string
	chance *rand.Rand

	mu        sync.Mutex
	out       []byte
	spare     []byte
	stream    uint32
	open      map[uint32]call
	order     []uint32 // streams in the order of their deadlines
	allowed   int      // streams at once
	credit    int      // bytes of data that may be sent
	initial   int
	broken    bool
	redialing bool // of the sending goroutine
	consumed  int

	first, block []byte // request headers: of the first request, and of all others
	statuses     map[string]string
}

func dial(target string, flow *Flow, s *sender, seed int64) (*conn, error) {
	socket, err := net.DialTimeout("tcp", target, 5*time.Second)
	if err != nil {
		return nil, err
	}
	c := &conn{
		flow: flow, sender: s, socket: socket, target: target, chance: rand.New(rand.NewSource(seed)), stream: 1,
		open: map[uint32]call{}, allowed: 100, credit: 65535, initial: 65535, statuses: map[string]string{},
	}
	c.first, c.block = headers(target, flow)
	out := []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
	settings := []byte{}
	for id, value := range map[uint16]uint32{1: 0, 2: 0, 4: window} { // no header table, no push, large windows
		settings = binary.BigEndian.AppendUint16(settings, id)
		settings = binary.BigEndian.AppendUint32(settings, value)
	}
	out = frame(out, frameSettings, 0, 0, settings)
	out = frame(out, frameWindowUpdate, 0, 0, binary.BigEndian.AppendUint32(nil, window-65535))
	if _, err := socket.Write(out); err != nil {
		return nil, err
	}
	settled := make(chan struct{})
	go c.read(settled)
	select {
	case <-settled:
	case <-time.After(5 * time.Second):
		return nil, fmt.Errorf("%s sends no settings", target)
	}
	return c, nil
}

// headers returns what is constant of a request's headers: as of the first request, which fills the server's table, and
// as of all later ones, which refer to it.
func headers(target string, flow *Flow) (first, later []byte) {
	var buffer bytes.Buffer
	encoder := hpack.NewEncoder(&buffer)
	write := func() []byte {
		buffer.Reset()
		fields := [][2]string{
			{":method", "POST"}, {":scheme", "http"}, {":path", flow.Path}, {":authority", target},
			{"content-type", "application/grpc"}, {"te", "trailers"}, {"user-agent", "openloop"},
		}
		for _, field := range append(fields, flow.Metadata...) {
			_ = encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]})
		}
		return bytes.Clone(buffer.Bytes())
	}
	return write(), write()
}

func frame(out []byte, kind, flags byte, stream uint32, payload []byte) []byte {
	n := len(payload)
	out = append(out, byte(n>>16), byte(n>>8), byte(n), kind, flags)
	out = binary.BigEndian.AppendUint32(out, stream)
	return append(out, payload...)
}

func (c *conn) inFlight() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.open)
}

// put writes a call into the buffer; false when the connection has no room for it.
func (c *conn) put(one call, now time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	size := 5 + len(c.flow.Message)
	if c.broken || len(c.open) >= c.allowed || c.credit < size {
		return false
	}
	c.credit -= size
	block := c.block
	if c.first != nil {
		block, c.first = c.first, nil
	}
	left := max(1, (one.deadline-now)/time.Microsecond)
	value := strconv.FormatInt(int64(left), 10) + "u"
	if len(value) > 9 {
		value = strconv.FormatInt(int64(left/1000), 10) + "m"
	}
	const name = "grpc-timeout"
	n := len(block) + 2 + len(name) + 1 + len(value)
	c.out = append(c.out, byte(n>>16), byte(n>>8), byte(n), frameHeaders, flagEndHeaders)
	c.out = binary.BigEndian.AppendUint32(c.out, c.stream)
	c.out = append(c.out, block...)
	c.out = append(c.out, 0, byte(len(name)))
	c.out = append(c.out, name...)
	c.out = append(c.out, byte(len(value)))
	c.out = append(c.out, value...)
	c.out = append(c.out, byte(size>>16), byte(size>>8), byte(size), frameData, flagEndStream)
	c.out = binary.BigEndian.AppendUint32(c.out, c.stream)
	c.out = append(c.out, 0)
	c.out = binary.BigEndian.AppendUint32(c.out, uint32(len(c.flow.Message)))
	at := len(c.out)
	c.out = append(c.out, c.flow.Message...)
	if c.flow.RequestIDAt >= 0 {
		c.requestID(c.out[at+c.flow.RequestIDAt:])
	}
	if c.flow.CustomerAt >= 0 {
		copy(c.out[at+c.flow.CustomerAt:], fmt.Sprintf("%05d", c.chance.Intn(c.flow.Customers)))
	}
	c.open[c.stream] = one
	c.order = append(c.order, c.stream)
	c.stream += 2
	return true
}

// requestID writes a UUIDv7 of now.
func (c *conn) requestID(to []byte) {
	const hex = "0123456789abcdef"
	high := uint64(time.Now().UnixMilli())<<16 | 0x7000 | uint64(c.chance.Intn(1<<12))
	low := c.chance.Uint64()>>2 | 1<<63
	at := 0
	for i, word := range [2]uint64{high, low} {
		for shift := 60; shift >= 0; shift -= 4 {
			if (i == 0 && (shift == 28 || shift == 12)) || (i == 1 && (shift == 60 || shift == 44)) {
				to[at] = '-'
				at++
			}
			to[at] = hex[word>>shift&15]
			at++
		}
	}
}

// expire cancels the calls whose deadline has passed, as any gRPC client does.
func (c *conn) expire(now time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.order) > 0 {
		one, ok := c.open[c.order[0]]
		if ok && one.deadline > now {
			return
		}
		if ok {
			delete(c.open, c.order[0])
			c.out = frame(c.out, frameReset, 0, c.order[0], []byte{0, 0, 0, 8})
			c.sender.end(one, timeout, now)
		}
		c.order = c.order[1:]
	}
}

func (c *conn) flush() {
	c.mu.Lock()
	out := c.out
	c.out, c.spare = c.spare[:0], nil
	broken := c.broken
	c.mu.Unlock()
	if len(out) > 0 && !broken {
		_ = c.socket.SetWriteDeadline(time.Now().Add(5 * time.Second))
		if _, err := c.socket.Write(out); err != nil {
			c.lose()
		}
	}
	c.mu.Lock()
	c.spare = out[:0]
	c.mu.Unlock()
}

func (c *conn) lose() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.broken = true
	for _, one := range c.open {
		c.sender.end(one, lost, c.sender.clock())
	}
	clear(c.open)
}

func (c *conn) isLost() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.broken
}

func (c *conn) close() { _ = c.socket.Close() }

func (c *conn) read(settled chan struct{}) {
	in := bufio.NewReaderSize(c.socket, 256<<10)
	head := make([]byte, 9)
	payload := make([]byte, 1<<14)
	for {
		if _, err := io.ReadFull(in, head); err != nil {
			c.lose()
			return
		}
		n := int(head[0])<<16 | int(head[1])<<8 | int(head[2])
		if n > len(payload) {
			payload = make([]byte, n)
		}
		body := payload[:n]
		if _, err := io.ReadFull(in, body); err != nil {
			c.lose()
			return
		}
		stream := binary.BigEndian.Uint32(head[5:]) & 0x7fffffff
		switch head[3] {
		case frameHeaders:
			if head[4]&flagEndStream != 0 {
				c.answered(stream, c.outcome(body))
			}
		case frameData:
			c.mu.Lock()
			if c.consumed += n; c.consumed > window/4 {
				c.out = frame(c.out, frameWindowUpdate, 0, 0, binary.BigEndian.AppendUint32(nil, uint32(c.consumed)))
				c.consumed = 0
			}
			c.mu.Unlock()
		case frameReset:
			c.answered(stream, reset)
		case frameSettings:
			if head[4]&1 != 0 {
				continue
			}
			c.mu.Lock()
			if settled != nil {
				c.allowed = streamsMax // unless it says otherwise
			}
			for i := 0; i+6 <= n; i += 6 {
				if id := binary.BigEndian.Uint16(body[i:]); id == 3 {
					c.allowed = int(min(binary.BigEndian.Uint32(body[i+2:]), streamsMax))
				}
			}
			c.out = frame(c.out, frameSettings, 1, 0, nil)
			c.mu.Unlock()
			if settled != nil {
				close(settled)
				settled = nil
			}
		case framePing:
			if head[4]&1 == 0 {
				c.mu.Lock()
				c.out = frame(c.out, framePing, 1, 0, body)
				c.mu.Unlock()
			}
		case frameWindowUpdate:
			if stream == 0 {
				c.mu.Lock()
				c.credit += int(binary.BigEndian.Uint32(body) & 0x7fffffff)
				c.mu.Unlock()
			}
		case frameGoAway, frameContinuation:
			c.lose()
			return
		}
	}
}

func (c *conn) answered(stream uint32, outcome string) {
	c.mu.Lock()
	one, ok := c.open[stream]
	delete(c.open, stream)
	c.mu.Unlock()
	if ok {
		c.sender.end(one, outcome, c.sender.clock())
	}
}

var codes = [...]string{
	"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
	"PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
	"INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
}

// outcome returns the code of an answer, with the reason of the service behind it, from the bytes of its trailers.
func (c *conn) outcome(block []byte) string {
	if known, ok := c.statuses[string(block)]; ok {
		return known
	}
	code, reason := "no status", ""
	decoder := hpack.NewDecoder(4096, func(field hpack.HeaderField) {
		switch field.Name {
		case "grpc-status":
			if n, err := strconv.Atoi(field.Value); err == nil && n < len(codes) {
				code = codes[n]
			}
		case "grpc-status-details-bin":
			raw, _ := base64.RawStdEncoding.DecodeString(strings.TrimRight(field.Value, "="))
			reason = reasonIn(raw)
		}
	})
	if _, err := decoder.Write(block); err != nil {
		code = "unreadable"
	}
	if reason != "" {
		code += " " + reason
	}
	if len(c.statuses) < statusMax {
		c.statuses[string(block)] = code
	}
	return code
}

// reasonIn returns the reason of the ErrorInfo in a google.rpc.Status: its first field, behind the type's name.
func reasonIn(status []byte) string {
	const name = "google.rpc.ErrorInfo"
	at := bytes.Index(status, []byte(name))
	if at < 0 {
		return ""
	}
	rest := status[at+len(name):]
	// tag and length of the value, then tag and length of the reason
	if len(rest) < 2 || rest[0] != 0x12 {
		return ""
	}
	_, n := binary.Uvarint(rest[1:])
	rest = rest[1+n:]
	if len(rest) < 2 || rest[0] != 0x0a || int(rest[1]) > len(rest)-2 {
		return ""
	}
	return string(rest[2 : 2+int(rest[1])])
}
