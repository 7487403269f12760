// A new user likes two items and asks for a slate that knows it. The server: `make demo`.
//
//	go install google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12
//	go install google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2
//	cd docs/examples/go && buf generate ../../../proto && go run .
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	marqueev1 "example.com/client/gen/marquee/v1"
)

const user = "example-go"

func main() {
	address := "127.0.0.1:50051"
	if len(os.Args) > 1 {
		address = os.Args[1]
	}
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()

	like := func(item string) *marqueev1.Event {
		// The id is the caller's choice: sent twice, an event counts once.
		return &marqueev1.Event{
			Id: user + "-" + item, UserId: user, ItemId: item, Type: marqueev1.EventType_EVENT_TYPE_LIKE,
		}
	}
	written, err := marqueev1.NewEventServiceClient(connection).RecordEvents(ctx, &marqueev1.RecordEventsRequest{
		Events: []*marqueev1.Event{like("50"), like("89")},
	})
	if err != nil {
		log.Fatal(err)
	}
	slate, err := marqueev1.NewRecommendationServiceClient(connection).Recommend(ctx, &marqueev1.RecommendRequest{
		UserId:     user,
		Surface:    "home",
		Count:      5,
		WriteToken: written.WriteToken, // the answer knows the likes
		Explain:    marqueev1.ExplainLevel_EXPLAIN_LEVEL_REASONS,
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("slate %s of bundle %q\n", slate.SlateId, slate.BundleVersion)
	for _, result := range slate.Results {
		fmt.Printf("%6s  %.3f ", result.ItemId, result.Score)
		for _, why := range result.Reasons {
			fmt.Printf(" %s %s", why.Kind, why.ItemId)
		}
		fmt.Println()
	}
}
