package main

import (
	"context"
	"fmt"
	"time"

	gocql "github.com/apache/cassandra-gocql-driver/v2"
	"github.com/cespare/xxhash/v2"
	"github.com/google/uuid"
)

const (
	slotMask       = 0xFFF
	requestTimeout = 10 * time.Second
)

// store inserts orders into the shard of their customer's slot, one statement an order.
type store struct {
	isOnce     bool
	insertCQL  string
	slotShards []*gocql.Session
	sessions   []*gocql.Session
}

func openStore(placed Placement, isOnce bool, connections int) (*store, error) {
	s := &store{isOnce: isOnce}
	s.insertCQL = fmt.Sprintf(
		"INSERT INTO %s.orders (order_id, customer, version, marks, body) VALUES (?, ?, ?, ?, ?)", placed.Keyspace)
	if isOnce {
		s.insertCQL += " IF NOT EXISTS"
	}
	byID := map[int]*gocql.Session{}
	for _, shard := range placed.Shards {
		cluster := gocql.NewCluster(shard.Hosts...)
		cluster.Port = shard.Port
		cluster.NumConns = connections
		cluster.Consistency = gocql.LocalQuorum
		cluster.SerialConsistency = gocql.Serial
		cluster.Timeout = requestTimeout
		cluster.ConnectTimeout = requestTimeout
		cluster.PoolConfig.HostSelectionPolicy = gocql.TokenAwareHostPolicy(gocql.DCAwareRoundRobinPolicy(placed.DataCenter))
		session, err := cluster.CreateSession()
		if err != nil {
			s.close()
			return nil, fmt.Errorf("shard %d: %w", shard.ID, err)
		}
		s.sessions = append(s.sessions, session)
		byID[shard.ID] = session
	}
	for slot, shard := range placed.SlotShards {
		session, ok := byID[shard]
		if !ok {
			s.close()
			return nil, fmt.Errorf("slot %d is on shard %d, which is not listed", slot, shard)
		}
		s.slotShards = append(s.slotShards, session)
	}
	return s, nil
}

func (s *store) close() {
	for _, session := range s.sessions {
		session.Close()
	}
}

// insert keeps the order; gocql prepares the statement once a connection. It returns the body that was there before,
// which only a conditional insert tells.
func (s *store) insert(
	ctx context.Context, customer string, orderID, requestID uuid.UUID, body []byte,
) ([]byte, error) {
	session := s.slotShards[xxhash.Sum64String(customer)&slotMask]
	marks := make([]byte, 32) // as long as Crest's: the request id, and room for a digest
	copy(marks, requestID[:])
	query := session.Query(s.insertCQL, orderID[:], customer, 1, marks, body)
	if !s.isOnce {
		return nil, query.ExecContext(ctx)
	}
	present := map[string]any{}
	applied, err := query.MapScanCASContext(ctx, present)
	if err != nil || applied {
		return nil, err
	}
	before, ok := present["body"].([]byte)
	if !ok {
		return nil, fmt.Errorf("the clash shows no body: %v", present)
	}
	return before, nil
}
