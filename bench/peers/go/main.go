// Command peer is the Go side of the benchmark: an order service on the same database with the same messages, as a
// Go team would write it first, and a server that does nothing.
//
// It ends on TERM or INT. All settings are flags; `bench/subjects.py` gives them.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"google.golang.org/grpc"

	ordersv1 "crest/bench/peers/go/ordersv1"
)

const stopGrace = 2 * time.Second

// Placement is what the benchmark tells every peer: where the shards are, and which holds each of the 4,096 slots.
type Placement struct {
	Keyspace   string `json:"keyspace"`
	DataCenter string `json:"data_center"`
	Shards     []struct {
		ID    int      `json:"id"`
		Hosts []string `json:"hosts"`
		Port  int      `json:"port"`
	} `json:"shards"`
	SlotShards []int `json:"slot_shards"`
}

func main() {
	mode := flag.String("mode", "", "plain: one insert an order; once: with IF NOT EXISTS; empty: nothing")
	listen := flag.String("listen", "", "host:port to serve on")
	placement := flag.String("placement", "", "JSON file that places slots on shards (plain, once)")
	answer := flag.String("answer", "", "file with the bytes that every call is answered (empty)")
	connections := flag.Int("connections", 4, "connections to each node (plain, once)")
	flag.Parse()
	if err := serve(*mode, *listen, *placement, *answer, *connections); err != nil {
		log.Fatal(err)
	}
}

func serve(mode, listen, placement, answer string, connections int) error {
	var server *grpc.Server
	switch mode {
	case "empty":
		bytes, err := os.ReadFile(answer)
		if err != nil {
			return err
		}
		server = newEmpty(bytes)
	case "plain", "once":
		raw, err := os.ReadFile(placement)
		if err != nil {
			return err
		}
		var placed Placement
		if err := json.Unmarshal(raw, &placed); err != nil {
			return fmt.Errorf("%s: %w", placement, err)
		}
		store, err := openStore(placed, mode == "once", connections)
		if err != nil {
			return err
		}
		defer store.close()
		server = grpc.NewServer()
		ordersv1.RegisterOrderServiceServer(server, &orders{store: store})
	default:
		return fmt.Errorf("mode %q: allowed are plain, once and empty", mode)
	}
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	asked, release := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer release()
	go func() {
		<-asked.Done()
		time.AfterFunc(stopGrace, server.Stop)
		server.GracefulStop()
	}()
	return server.Serve(listener)
}
