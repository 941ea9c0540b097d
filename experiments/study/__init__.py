"""The study: how good is a teacher before it teaches, and how good is the retriever that it taught?"""
