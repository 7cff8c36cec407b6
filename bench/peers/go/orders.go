package main

import (
	"context"
	"math"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	ordersv1 "crest/bench/peers/go/ordersv1"
)

// orders answers CreateOrder with what Crest answers; the other methods are unimplemented.
type orders struct {
	ordersv1.UnimplementedOrderServiceServer
	store *store
}

// CreateOrder keeps one order. The few checks are those without which the answer would be nonsense.
func (o *orders) CreateOrder(
	ctx context.Context, request *ordersv1.CreateOrderRequest,
) (*ordersv1.CreateOrderResponse, error) {
	requestID, err := uuid.Parse(request.GetRequestId())
	if err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "request_id: %v", err)
	}
	if request.GetCustomerId() == "" || len(request.GetLines()) == 0 {
		return nil, status.Error(codes.InvalidArgument, "an order has a customer and lines")
	}
	// Without the condition nothing would notice a second order under the same id, so each try gets a new one.
	orderID := requestID
	if !o.store.isOnce {
		if orderID, err = uuid.NewV7(); err != nil {
			return nil, status.Errorf(codes.Internal, "order_id: %v", err)
		}
	}
	order, err := newOrder(orderID, request)
	if err != nil {
		return nil, err
	}
	body, err := proto.Marshal(order)
	if err != nil {
		return nil, status.Errorf(codes.Internal, "order: %v", err)
	}
	present, err := o.store.insert(ctx, request.GetCustomerId(), orderID, requestID, body)
	if err != nil {
		return nil, status.Errorf(codes.Unavailable, "store: %v", err)
	}
	if present == nil {
		return &ordersv1.CreateOrderResponse{Order: order}, nil
	}
	replayed := &ordersv1.Order{}
	if err := proto.Unmarshal(present, replayed); err != nil {
		return nil, status.Errorf(codes.DataLoss, "order: %v", err)
	}
	return &ordersv1.CreateOrderResponse{Order: replayed, Replayed: true}, nil
}

func newOrder(orderID uuid.UUID, request *ordersv1.CreateOrderRequest) (*ordersv1.Order, error) {
	var total int64
	for _, line := range request.GetLines() {
		if line.GetQuantity() < 1 || line.GetUnitPriceMinor() < 0 ||
			line.GetUnitPriceMinor() > (math.MaxInt64-total)/line.GetQuantity() {
			return nil, status.Error(codes.InvalidArgument, "lines: quantity, price or their sum is out of range")
		}
		total += line.GetQuantity() * line.GetUnitPriceMinor()
	}
	now := timestamppb.Now()
	return &ordersv1.Order{
		OrderId:      orderID.String(),
		CustomerId:   request.GetCustomerId(),
		State:        ordersv1.Order_STATE_PENDING,
		Version:      1,
		CurrencyCode: request.GetCurrencyCode(),
		Lines:        request.GetLines(),
		TotalMinor:   total,
		Attributes:   request.GetAttributes(),
		CreateTime:   now,
		UpdateTime:   now,
		Transitions:  []*ordersv1.Transition{{State: ordersv1.Order_STATE_PENDING, Version: 1, Time: now}},
	}, nil
}
